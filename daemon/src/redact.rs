//! Secrets in command lines: the values of options such as `--token=`, of variables such as `AWS_SECRET_ACCESS_KEY=`, of headers,
//! passwords in URLs, and texts with the form of a known key are replaced by [`REDACTED`] before a command line enters the audit log,
//! a recording or the API.
//!
//! Invariant: what a rule matches does not change. A rule on `argv` judges the text that is recorded; where the redacted text would
//! be judged otherwise than the whole one, the whole one is kept ([`Redactor::argv`]). So a run cannot hide an argument from a rule
//! by calling it a password, and a replay decides the same.

use failsafe_core::{
    event::{CUT, FieldValue},
    policy::Pattern,
};
use serde::Deserialize;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// `[redact]`: what is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redactor {
    /// Words in the name of an option or variable of which the value is a secret: `api-key` stands for `--api-key`, `API_KEY=` and
    /// `--openai-api-key`, and not for `--api-keys-file`.
    pub names: Vec<String>,
    /// How texts begin that are secrets by themselves.
    pub prefixes: Vec<String>,
}

impl Default for Redactor {
    fn default() -> Redactor {
        let own = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Redactor {
            names: own(&[
                "password",
                "passwd",
                "passphrase",
                "pwd",
                "secret",
                "token",
                "api-key",
                "apikey",
                "access-key",
                "secret-key",
                "private-key",
                "account-key",
                "auth-key",
                "authkey",
                "credential",
                "credentials",
                "bearer",
                "authorization",
                "cookie",
                "signature",
                "sas",
                "dsn",
            ]),
            prefixes: own(&[
                "AKIA",
                "ASIA",
                "ghp_",
                "gho_",
                "ghu_",
                "ghs_",
                "ghr_",
                "github_pat_",
                "glpat-",
                "hf_",
                "sk-",
                "xoxb-",
                "xoxp-",
                "xoxa-",
                "xapp-",
                "npm_",
                "pypi-",
                "AIza",
                "ya29.",
                "eyJ",
                "wandb_v1_",
            ]),
        }
    }
}

/// Names that end so are about a secret and hold none.
const ABOUT: &[&str] =
    &["file", "path", "dir", "env", "name", "id", "type", "url", "uri", "ttl", "length", "len", "count", "limit"];
/// Texts with a known beginning are secrets from this length on.
const LEAST: usize = 16;

impl Redactor {
    /// Redacts a command line in place; not, where that would change what one of the `patterns` of rules matches.
    pub fn argv(&self, argv: &mut Vec<String>, patterns: &[Pattern]) {
        let Some(redacted) = self.redacted(argv) else { return };
        let (whole, shown) = (argv.join(" "), redacted.join(" "));
        let judged = |pattern: &Pattern, text: &str| pattern.fit(FieldValue::Text(text));
        if patterns.iter().all(|pattern| judged(pattern, &whole) == judged(pattern, &shown)) {
            *argv = redacted;
        }
    }

    /// The command line without its secrets; `None`: there are none.
    fn redacted(&self, argv: &[String]) -> Option<Vec<String>> {
        let (mut next, mut before) = (false, "");
        let mut out = Vec::with_capacity(argv.len());
        for arg in argv {
            out.push(self.cut_arg(arg, is_command_option(before), &mut next));
            before = arg;
        }
        (out != argv).then_some(out)
    }

    /// A text of several words, such as a list of flags, without its secrets.
    pub fn text(&self, text: &str) -> String {
        self.words(text, &mut false)
    }

    /// One argument, or two with a part left out between them, which stays marked. What follows a secret there may be its end.
    fn cut_arg(&self, arg: &str, command: bool, next: &mut bool) -> String {
        let Some((head, tail)) = arg.split_once(CUT) else { return self.arg(arg, command, next) };
        let shown = self.arg(head, command, next);
        let secret = std::mem::take(next) || shown != head;
        let tail = if secret && !tail.is_empty() { REDACTED.to_owned() } else { self.arg(tail, command, next) };
        format!("{shown}{CUT}{tail}")
    }

    /// One argument. `command`: it is a command line of its own, as that of `sh -c`. `next`: it is, or begins with, a secret. A secret
    /// reaches to the end of its argument: it may have blanks.
    fn arg(&self, arg: &str, command: bool, next: &mut bool) -> String {
        if command {
            return self.words(arg, next);
        }
        if std::mem::take(next) && !arg.is_empty() && !arg.starts_with("--") {
            return hidden(arg, next);
        }
        let start = arg.len() - arg.trim_start_matches(['"', '\'']).len();
        let (quotes, bare) = arg.split_at(start);
        let name = bare.split(['=', ':']).next().unwrap_or_default();
        let value = bare.get(name.len() + 1..).unwrap_or_default();
        if name.contains(char::is_whitespace) || value.trim().is_empty() || !self.is_secret(name) {
            return self.words(arg, next);
        }
        let mark = &bare[name.len()..=name.len()];
        let blank = &value[..value.len() - value.trim_start().len()];
        format!("{quotes}{name}{mark}{blank}{}", hidden(value.trim_start(), next))
    }

    /// Several words, each of which may be a secret. `next`: the word that follows is one.
    fn words(&self, arg: &str, next: &mut bool) -> String {
        let mut out = String::with_capacity(arg.len());
        for piece in arg.split_inclusive(char::is_whitespace) {
            let word = piece.trim_end_matches(char::is_whitespace);
            if word.is_empty() {
                out.push_str(piece);
                continue;
            }
            match std::mem::take(next) {
                // `Authorization: Bearer abc`: the scheme is none.
                true if is_scheme(word) => {
                    *next = true;
                    out.push_str(word);
                }
                true if !word.starts_with("--") => out.push_str(REDACTED),
                _ => out.push_str(&self.word(word, next)),
            }
            out.push_str(&piece[word.len()..]);
        }
        out
    }

    fn word(&self, word: &str, next: &mut bool) -> String {
        let quotes: &[char] = &['"', '\''];
        let bare = word.trim_start_matches(quotes);
        if let Some((name, value)) = bare.split_once('=')
            && self.is_secret(name)
            && !value.is_empty()
        {
            return format!("{}{name}={REDACTED}", &word[..word.len() - bare.len()]);
        }
        // `--token abc`, and `Authorization: abc` in a header.
        let option = bare.starts_with('-') && !bare.contains('=');
        let header = bare.ends_with(':');
        if (option || header) && self.is_secret(bare.trim_end_matches(':')) {
            *next = true;
            return word.to_owned();
        }
        if let Some(hidden) = without_password(word) {
            return hidden;
        }
        let is_key =
            |text: &str| text.len() >= LEAST && self.prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()));
        match bare.rsplit_once(['=', ':', ',']) {
            _ if is_key(bare) => REDACTED.to_owned(),
            Some((_, value)) if is_key(value) => word.replace(value, REDACTED),
            _ => word.to_owned(),
        }
    }

    /// Whether a name says that its value is a secret.
    fn is_secret(&self, name: &str) -> bool {
        let name = name.trim_start_matches('-').to_ascii_lowercase();
        let words: Vec<&str> = name.split(['-', '_', '.', '/']).filter(|word| !word.is_empty()).collect();
        if words.last().is_none_or(|last| ABOUT.contains(last)) {
            return false;
        }
        self.names.iter().any(|secret| {
            let wanted: Vec<&str> = secret.split('-').collect();
            words.windows(wanted.len().max(1)).any(|found| found == wanted.as_slice())
        })
    }
}

/// Whether what follows this argument is a command line, as with `sh -c` and `bash -lc`.
fn is_command_option(arg: &str) -> bool {
    let letters = arg.strip_prefix('-').unwrap_or_default();
    letters.ends_with('c') && letters.len() <= 4 && letters.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// A secret, with the scheme in front of it (`Bearer abc`) as it was.
fn hidden(secret: &str, next: &mut bool) -> String {
    match secret.split_once(char::is_whitespace) {
        Some((scheme, rest)) if is_scheme(scheme) && !rest.is_empty() => format!("{scheme} {REDACTED}"),
        None if is_scheme(secret) => {
            *next = true;
            secret.to_owned()
        }
        _ => REDACTED.to_owned(),
    }
}

fn is_scheme(word: &str) -> bool {
    ["bearer", "basic", "token", "negotiate"].contains(&word.to_ascii_lowercase().as_str())
}

/// `scheme://user:password@host` without the password.
fn without_password(word: &str) -> Option<String> {
    let (before, rest) = word.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, host) = rest[..end].rsplit_once('@')?;
    let (user, password) = user.split_once(':')?;
    (!password.is_empty()).then(|| format!("{before}://{user}:{REDACTED}@{host}{}", &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[track_caller]
    fn shown(words: &[&str], expected: &str) {
        let mut redacted = argv(words);
        Redactor::default().argv(&mut redacted, &[]);
        assert_eq!(redacted.join(" "), expected);
    }

    #[test]
    fn values_of_options_variables_headers_and_urls_are_redacted() {
        shown(&["t", "--token=abc", "--lr=0.1"], "t --token=[redacted] --lr=0.1");
        shown(&["t", "--hf-token", "abc", "x"], "t --hf-token [redacted] x");
        shown(&["t", "--OPENAI_API_KEY=abc"], "t --OPENAI_API_KEY=[redacted]");
        shown(&["env", "AWS_SECRET_ACCESS_KEY=abc", "t"], "env AWS_SECRET_ACCESS_KEY=[redacted] t");
        shown(&["mysql", "--password", "-x"], "mysql --password [redacted]");
        shown(
            &["sh", "-c", "curl --api-key abc \"https://u:p@h/x\" && ls"],
            "sh -c curl --api-key [redacted] \"https://u:[redacted]@h/x\" && ls",
        );
        shown(&["curl", "-H", "Authorization: Bearer abc"], "curl -H Authorization: Bearer [redacted]");
        shown(&["t", "hf_abcdefghijklmnop", "key=AKIAABCDEFGHIJKLMNOP"], "t [redacted] key=[redacted]");
        shown(&["t", "db.password=abc", "\"secret=abc"], "t db.password=[redacted] \"secret=[redacted]");
    }

    #[test]
    fn a_secret_reaches_to_the_end_of_its_argument() {
        shown(&["t", "--passphrase", "correct horse battery"], "t --passphrase [redacted]");
        shown(&["t", "--password=my secret phrase", "--lr=1"], "t --password=[redacted] --lr=1");
        shown(&["env", "WANDB_API_KEY=aaa bbb", "t"], "env WANDB_API_KEY=[redacted] t");
        shown(&["curl", "-H", "Cookie: a=b; c=d"], "curl -H Cookie: [redacted]");
        shown(&["curl", "-H", "Authorization:Bearer abc def"], "curl -H Authorization:Bearer [redacted]");
        shown(&["t", "--token", "Bearer", "abc"], "t --token Bearer [redacted]");
        // A command line goes on behind it.
        shown(&["bash", "-lc", "TOKEN=abc python train.py"], "bash -lc TOKEN=[redacted] python train.py");
        shown(&["t", "note: token = x y"], "t note: token = x y");
        assert_eq!(Redactor::default().text("--token=abc --x=1"), "--token=[redacted] --x=1");
    }

    /// The mark of a cut stays, or a rule that the cut part decides would seem not to match.
    #[test]
    fn a_cut_stays_marked_and_what_follows_it_is_taken_for_the_end_of_the_secret() {
        let redacted = |words: &[String], patterns: &[Pattern]| {
            let mut argv = words.to_vec();
            Redactor::default().argv(&mut argv, patterns);
            argv.join(" ")
        };
        let inside = ["t".to_owned(), format!("--token=abc{CUT}def"), "x".to_owned()];
        assert_eq!(redacted(&inside, &[]), format!("t --token=[redacted]{CUT}[redacted] x"));
        let behind = ["t".to_owned(), "--token".to_owned(), format!("abc{CUT}def")];
        assert_eq!(redacted(&behind, &[]), format!("t --token [redacted]{CUT}[redacted]"));
        let plain = ["t".to_owned(), format!("a{CUT}b"), "--token=abc".to_owned()];
        assert_eq!(redacted(&plain, &[]), format!("t a{CUT}b --token=[redacted]"));
        // What a rule cannot judge stays so, and what it matches stays as it is.
        let unknown = Pattern::Holds("--exfil".into());
        assert!(redacted(&inside, &[unknown]).contains(CUT));
        assert_eq!(redacted(&inside, &[Pattern::Suffix("def x".into())]), inside.join(" "));
    }

    #[test]
    fn what_is_no_secret_stays() {
        for line in [
            "t --max-tokens=512 --tokenizer gpt2 --token-file /run/x --secret-name y --pass-through",
            "t --passes 3 --password --verbose https://host/x@y sk-short author=me",
            "t --token= --compass=1 --data=/a/b:c",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            shown(&words, line);
        }
    }

    #[test]
    fn what_a_rule_matches_does_not_change() {
        let whole = argv(&["python", "--token=nmap"]);
        let after = |pattern: Pattern| {
            let mut redacted = whole.clone();
            Redactor::default().argv(&mut redacted, &[pattern]);
            redacted
        };
        assert_eq!(after(Pattern::Holds("nmap".into())), whole, "a run cannot hide an argument from a rule");
        assert_eq!(after(Pattern::Holds("[redacted]".into())), whole, "nor make a rule match");
        assert_eq!(after(Pattern::Prefix("python".into())), argv(&["python", "--token=[redacted]"]));
        assert_eq!(after(Pattern::Holds("curl".into())), argv(&["python", "--token=[redacted]"]));
    }
}
