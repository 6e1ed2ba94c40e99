//! Shows the place in a Containerfile that an error is about.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::dockerfile::Span;

/// Columns that a snippet may take; longer lines lose what is far from the underlined place.
const WIDTH: usize = 80;

/// The lines of `source` that `span` covers, underlined, below a line that says where they are.
///
/// ```text
///  --> Containerfile:3:11
///   |
/// 3 | COPY --frm=build /app /
///   |      ^^^^^ did you mean --from?
/// ```
///
/// Any span will do: one that leaves the text, or cuts a character, is moved to the nearest place that
/// makes sense. There is no newline at the end.
pub fn snippet(file: &str, source: &str, span: Span, label: Option<&str>, color: bool) -> String {
    // Editors neither show nor count a byte-order mark.
    let mark = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let text = &source[mark..];
    let start = text.floor_char_boundary(span.start.saturating_sub(mark));
    let end = text.ceil_char_boundary(span.end.saturating_sub(mark)).max(start);

    // At the end of the file there is no line to show after the last newline: the end of the line before
    // it is where something is missing. Newlines at the end of a span are not worth two lines either.
    let start = start.min(text.trim_end_matches(['\n', '\r']).len());
    let end = start + text[start..end.max(start)].trim_end_matches(['\n', '\r']).len();

    // Only the lines concerned are handed on: the renderer's work does not grow with the file then, and it
    // cannot stumble over what is elsewhere.
    let first = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let last = text[end..].find('\n').map_or(text.len(), |newline| end + newline);
    let number = text[..first].matches('\n').count() + 1;
    let lines = text[first..last].trim_end_matches('\r');
    let within = (start - first).min(lines.len())..(end - first).min(lines.len());

    // The renderer replaces control characters in the source, but not in these two.
    let label = label.map(one_line).filter(|label| !label.is_empty());
    let annotation = AnnotationKind::Primary.span(within).label(label);
    let snippet = Snippet::source(lines).line_start(number).path(one_line(file)).annotation(annotation);
    let renderer = if color { Renderer::styled().hyperlink(false) } else { Renderer::plain() };
    renderer.term_width(WIDTH).render(&[Group::with_level(Level::ERROR).element(snippet)])
}

/// Text that stays on the line it is put on.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The snippet of the first place where `part` stands in `source`.
    fn at(source: &str, part: &str, label: Option<&str>) -> String {
        let start = source.find(part).unwrap();
        format!(
            "\n{}\n",
            snippet("Containerfile", source, Span::new(start, start + part.len()), label, false)
        )
    }

    #[test]
    fn one_line() {
        let source = "FROM scratch\n\nCOPY --frm=build /app /\n";
        let expected = "
 --> Containerfile:3:6
  |
3 | COPY --frm=build /app /
  |      ^^^^^ did you mean --from?
";
        assert_eq!(at(source, "--frm", Some("did you mean --from?")), expected);
        assert_eq!(at(source, "--frm", Some("did you mean\n--from?")), expected);
    }

    #[test]
    fn a_step_of_several_lines() {
        let expected = "
 --> Containerfile:2:1
  |
2 | / RUN a \\
3 | |   && b
  | |______^ this failed
";
        assert_eq!(at("FROM x\nRUN a \\\n  && b\n", "RUN a \\\n  && b", Some("this failed")), expected);
        assert_eq!(
            at("FROM x\r\nRUN a \\\r\n  && b\r\n", "RUN a \\\r\n  && b\r\n", Some("this failed")),
            expected,
            "the end of the last line is not another line"
        );
    }

    #[test]
    fn a_long_step_is_shown_by_its_ends() {
        let body: String = (1..=40).map(|number| format!("  step {number} && \\\n")).collect();
        let source = format!("FROM x\nRUN \\\n{body}  end\n");
        let shown = at(&source, source[7..].trim_end(), None);
        assert!(shown.contains("\n 2 | / RUN \\\n") && shown.contains("\n43 | |   end\n"), "{shown}");
        assert!(shown.lines().count() < 12, "{shown}");
    }

    #[test]
    fn columns_are_what_an_editor_counts() {
        let source = "\u{feff}FROM a\r\n\tRUN\techo 漢字 déjà\r\n";
        let expected = "
 --> Containerfile:1:6
  |
1 | FROM a
  |      ^
";
        assert_eq!(at(source, "a", None), expected);
        let expected = "
 --> Containerfile:2:14
  |
2 |     RUN    echo 漢字 déjà
  |                      ^^^^ accents
";
        assert_eq!(at(source, "déjà", Some("accents")), expected);
    }

    #[test]
    fn what_is_missing_at_the_end_is_shown_after_the_last_line() {
        for source in ["FROM a\nRUN", "FROM a\nRUN\n", "FROM a\nRUN\r\n\r\n"] {
            let end = Span::new(source.len(), source.len());
            let expected = " --> Containerfile:2:4\n  |\n2 | RUN\n  |    ^ a command is missing";
            assert_eq!(snippet("Containerfile", source, end, Some("a command is missing"), false), expected);
        }
        let expected = " --> Containerfile:1:1\n  |\n1 |\n  | ^ nothing";
        assert_eq!(snippet("Containerfile", "", Span::new(0, 0), Some("nothing"), false), expected);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let source = format!("RUN {}THERE {}\n", "before ".repeat(40), "after ".repeat(40));
        let shown = at(&source, "THERE", Some("here"));
        assert!(shown.contains("THERE") && shown.contains("^^^^^ here"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 84), "{shown}");
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        let source = "RUN \x1b[2J \u{202e}x\n";
        let shown = snippet("a\x1b[2Jb", source, Span::new(4, 8), Some("\x1bc"), false);
        assert_eq!(shown, " --> a [2Jb:1:5\n  |\n1 | RUN ␛[2J �x\n  |     ^^^^  c");
    }

    #[test]
    fn no_span_panics() {
        let sources = [
            "",
            "\n",
            "\u{feff}",
            "\u{feff}\r\n",
            "FROM a",
            "FROM a\r\nRUN b \\\r\n\tc\r\n",
            "\u{feff}\tFROM 漢字\n\n\n",
            "RUN a\rb\r\n\r\r\nc",
            "e\u{301}🦀\r\r\n\0\x1b\n \n",
        ];
        for source in sources {
            for start in 0..source.len() + 3 {
                for end in 0..source.len() + 3 {
                    for (label, color) in [(None, true), (Some("label"), false)] {
                        let shown = snippet("f", source, Span::new(start, end), label, color);
                        assert!(
                            shown.contains("f:") && shown.contains('^'),
                            "{source:?} {start}..{end}\n{shown}"
                        );
                    }
                }
            }
            snippet("f", source, Span::new(usize::MAX, usize::MAX), None, false);
            snippet("f", source, Span::new(0, usize::MAX), None, false);
        }
    }
}
