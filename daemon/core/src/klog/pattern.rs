//! Patterns of lines: literals, `*`, and captures. Matched in one pass without going back over more than one literal, so that
//! no line can make it slow.

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Anything,
    Bus,
    Code,
    GpuInstance,
    ComputeInstance,
    Word,
}

/// What a line held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Captures<'a> {
    pub bus: Option<&'a str>,
    pub code: Option<&'a str>,
    pub gpu_instance: Option<&'a str>,
    pub compute_instance: Option<&'a str>,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Pattern, String> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let piece = if let Some(after) = rest.strip_prefix('*') {
                rest = after;
                Piece::Anything
            } else if let Some(after) = rest.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or("`line`: a `{` without `}`")?;
                rest = after;
                match name {
                    "bus" => Piece::Bus,
                    "code" => Piece::Code,
                    "gpu-instance" => Piece::GpuInstance,
                    "compute-instance" => Piece::ComputeInstance,
                    "word" => Piece::Word,
                    other => {
                        return Err(format!(
                            "`line`: {{{other}}}, expected {{bus}}, {{code}}, {{gpu-instance}}, {{compute-instance}} or {{word}}"
                        ));
                    }
                }
            } else {
                let end = rest.find(['*', '{']).unwrap_or(rest.len());
                let (literal, after) = rest.split_at(end);
                rest = after;
                Piece::Literal(literal.to_owned())
            };
            if piece == Piece::Anything && pieces.last() == Some(&Piece::Anything) {
                return Err("`line`: one `*` is enough".into());
            }
            pieces.push(piece);
        }
        if pieces.iter().any(|p| matches!(p, Piece::Literal(text) if text.trim().len() > 2)) {
            Ok(Pattern(pieces))
        } else {
            Err("`line`: expected some literal text, or it fits everything".into())
        }
    }

    pub(super) fn has_code(&self) -> bool {
        self.0.contains(&Piece::Code)
    }

    /// What the line holds, where its beginning fits.
    pub(super) fn fit<'a>(&self, line: &'a str) -> Option<Captures<'a>> {
        let mut captures = Captures::default();
        let mut rest = line;
        let mut loose = false;
        for piece in &self.0 {
            match piece {
                Piece::Anything => loose = true,
                Piece::Literal(text) => {
                    let at =
                        if loose { rest.find(text.as_str())? } else { rest.starts_with(text.as_str()).then_some(0)? };
                    rest = &rest[at + text.len()..];
                    loose = false;
                }
                Piece::Bus => {
                    let (bus, after) = take(rest, loose, |c| c.is_ascii_hexdigit() || c == ':' || c == '.', is_bus)?;
                    (captures.bus, rest, loose) = (Some(bus), after, false);
                }
                Piece::Code => {
                    let (code, after) = take(rest, loose, |c| c.is_ascii_digit(), |_| true)?;
                    // A line may have been cut within the number: 7 of 79 is another XID.
                    if after.is_empty() {
                        return None;
                    }
                    (captures.code, rest, loose) = (Some(code), after, false);
                }
                Piece::GpuInstance | Piece::ComputeInstance => {
                    let (number, after) = take(rest, loose, |c| c.is_ascii_digit(), |_| true)?;
                    let to = match piece {
                        Piece::GpuInstance => &mut captures.gpu_instance,
                        _ => &mut captures.compute_instance,
                    };
                    (*to, rest, loose) = (Some(number), after, false);
                }
                Piece::Word => {
                    let (_, after) = take(rest, loose, |c| !c.is_whitespace() && c != ':', |_| true)?;
                    (rest, loose) = (after, false);
                }
            }
        }
        Some(captures)
    }
}

/// The first run of fitting characters that is `good`: here, or anywhere later where `loose`.
fn take(text: &str, loose: bool, fits: fn(char) -> bool, good: fn(&str) -> bool) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let rest = &text[from..];
        let start = if loose { rest.find(fits)? } else { 0 };
        let run = &rest[start..];
        let end = run.find(|c| !fits(c)).unwrap_or(run.len());
        let (word, after) = run.split_at(end);
        // The last character of a bus may be the line's own punctuation.
        let trimmed = word.trim_end_matches([':', '.']);
        let kept = if good(word) { word } else { trimmed };
        if !kept.is_empty() && good(kept) {
            let cut = word.len() - kept.len();
            return Some((kept, &run[end - cut..end + after.len()]));
        }
        if !loose || end == 0 {
            return None;
        }
        from += start + end;
    }
}

fn is_bus(text: &str) -> bool {
    text.contains(':') && super::Bus::parse(text).is_some() && !text.ends_with([':', '.'])
}
