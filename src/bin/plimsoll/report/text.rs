//! Names that anyone may have chosen, made safe for where they are shown.

/// The most characters of a name that a picture shows.
const LONGEST: usize = 96;

/// A name on one line: without control characters, without what turns the direction of the text
/// around it, and without what XML has no way to write; cut where it is very long.
pub fn plain(name: &str) -> String {
    let mut text: String = name.chars().take(LONGEST).map(|c| if is_shown(c) { c } else { '\u{fffd}' }).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}

fn is_shown(c: char) -> bool {
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_no_character = matches!(c, '\u{fdd0}'..='\u{fdef}') || matches!(u32::from(c) & 0xffff, 0xfffe | 0xffff);
    !c.is_control() && !separates && !turns && !is_no_character
}

/// A name as the text of an HTML or XML element, or within the quotes of an attribute.
pub fn markup(name: &str) -> String {
    let mut text = String::new();
    for c in plain(name).chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            c => text.push(c),
        }
    }
    text
}

/// JSON as the text of a script element: no `</script>` and no `<!--` can stand in it. The characters
/// replaced stand in JSON only within strings.
pub fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_could_do_harm() {
        assert_eq!(plain("a\nb\u{0}c\u{202e}d\u{ffff}"), "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}");
        assert_eq!(plain("größe 層 🚢"), "größe 層 🚢");
        assert_eq!(plain(&"x".repeat(97)).chars().count(), 97);
        assert_eq!(markup("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        let json = serde_json::to_string("</script><!-- & -->").unwrap();
        let safe = in_script(&json);
        assert!(!safe.contains(['<', '>', '&']));
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), "</script><!-- & -->");
    }
}
