//! Decimal numbers of policies and arguments, read without rounding.

/// `digits * factor`, exactly. Outer `None`: not a decimal number; inner `None`: not a whole number of base units.
pub(crate) fn decimal(digits: &str, factor: i64) -> Option<Option<i64>> {
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let (whole, frac) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && frac.is_empty() || !whole.bytes().chain(frac.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let exact = || -> Option<i64> {
        let scale = 10i128.checked_pow(u32::try_from(frac.len()).ok()?)?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part: i128 = if frac.is_empty() { 0 } else { frac.parse().ok()? };
        let total = whole.checked_mul(scale)?.checked_add(part)?.checked_mul(i128::from(factor))?;
        if total % scale != 0 {
            return None;
        }
        let value = total / scale;
        i64::try_from(if negative { -value } else { value }).ok()
    };
    Some(exact())
}
