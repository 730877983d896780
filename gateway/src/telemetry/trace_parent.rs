//! The `traceparent` header (W3C Trace Context), as far as logs need it.

/// The ids of a trace that came with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent<'a> {
    pub trace_id: &'a str,
    pub span_id: &'a str,
}

impl<'a> TraceParent<'a> {
    /// Reads a header; what breaks the grammar is no trace.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)?;
        hex(parts.next()?, 2)?;
        let zero = |id: &str| id.bytes().all(|b| b == b'0');
        // Version 00 has exactly four parts, later ones may have more; ff is never valid.
        let known = match version {
            "00" => parts.next().is_none(),
            "ff" => false,
            _ => true,
        };
        let valid = known && !zero(trace_id) && !zero(span_id);
        valid.then_some(Self { trace_id, span_id })
    }
}

fn hex(text: &str, length: usize) -> Option<&str> {
    let digit = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    (text.len() == length && text.bytes().all(digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_headers_are_traces() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for (text, valid) in [
            (format!("00-{trace}-b7ad6b7169203331-01"), true),
            (format!("01-{trace}-b7ad6b7169203331-01-more"), true),
            (format!("00-{trace}-b7ad6b7169203331-01-more"), false),
            (format!("ff-{trace}-b7ad6b7169203331-01"), false),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false),
            (format!("00-{trace}-0000000000000000-01"), false),
            (format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), false),
            (format!("00-{trace}-b7ad6b7169203331"), false),
            (String::new(), false),
        ] {
            assert_eq!(TraceParent::parse(&text).is_some(), valid, "{text}");
        }
    }
}
