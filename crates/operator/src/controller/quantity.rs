//! Quantities as Kubernetes writes them: `0.5` and `500m` are the same.

/// Whether two texts are quantities of the same size.
pub fn same_quantity(one: &str, other: &str) -> bool {
    matches!((parse(one), parse(other)), (Some(one), Some(other)) if one == other)
}

/// A whole number of bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let thousandths = parse(text)?;
    (thousandths % 1000 == 0).then_some(thousandths / 1000)?.try_into().ok()
}

/// In thousandths.
fn parse(text: &str) -> Option<u128> {
    let (number, suffix) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let thousandths = digits.checked_mul(multiplier(suffix)?)?;
    (thousandths % scale == 0).then(|| thousandths / scale)
}

fn multiplier(suffix: &str) -> Option<u128> {
    const SUFFIXES: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    let power = |base: u128, letter: &str| {
        let index = SUFFIXES.iter().position(|known| *known == letter)?;
        Some(1000 * base.pow(u32::try_from(index).ok()? + 1))
    };
    match suffix {
        "" => Some(1000),
        "m" => Some(1),
        "k" => power(1000, "K"),
        "K" => None,
        _ => suffix.strip_suffix('i').map_or_else(|| power(1000, suffix), |binary| power(1024, binary)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_are_the_same_and_anything_else_is_not() {
        for (one, other) in
            [("0.5", "500m"), ("1", "1000m"), ("1Gi", "1024Mi"), ("1.5Gi", "1536Mi"), ("2k", "2000")]
        {
            assert!(same_quantity(one, other), "{one} {other}");
        }
        for (one, other) in
            [("1", "2"), ("1G", "1Gi"), ("a", "a"), ("", ""), ("1K", "1000"), ("1.2.3", "1.23"), ("1x", "1x")]
        {
            assert!(!same_quantity(one, other), "{one} {other}");
        }
    }
}
