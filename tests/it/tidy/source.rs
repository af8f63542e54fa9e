//! Just enough reading of Rust source for the rules of `tidy`: code without comments and literals,
//! and the paths it names.
//!
//! Not a parser: macros that build paths are not seen. What is seen is exact about groups, renames,
//! `self` and `super`, because those are how a forbidden import would hide by accident.

/// The code of a file: comments, strings and character literals become spaces, line breaks stay, so
/// that positions and line numbers are those of the file.
pub(super) fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
            continue;
        }
        code.extend(
            chars[at..end]
                .iter()
                .map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let inside_word = at > 0 && is_word(chars[at - 1]);
    match chars[at] {
        '/' if next(1) == '/' => find(chars, at, |i| chars[i] == '\n'),
        '/' if next(1) == '*' => block_comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        'b' if !inside_word && next(1) == '"' => string_end(chars, at + 2),
        'b' if !inside_word && next(1) == 'r' => raw_string_end(chars, at, 2),
        'r' if !inside_word => raw_string_end(chars, at, 1),
        '\'' if next(1) == '\\' => find(chars, at + 3, |i| chars[i] == '\'') + 1,
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn find(chars: &[char], from: usize, is_it: impl Fn(usize) -> bool) -> usize {
    (from..chars.len())
        .find(|i| is_it(*i))
        .unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0_u32, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"`, `r#"…"#` and so on, whose prefix is `prefix` long; `at` if it is none.
fn raw_string_end(chars: &[char], at: usize, prefix: usize) -> usize {
    let quote = find(chars, at + prefix, |i| chars[i] != '#');
    if chars.get(quote) != Some(&'"') {
        return at;
    }
    let hashes = quote - at - prefix;
    let closes = |i: usize| {
        chars[i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    find(chars, quote + 1, closes) + 1 + hashes
}

/// Whether a character belongs to an identifier.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words (identifiers, keywords, numbers) of code, with their lines from 1.
pub(super) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(i, line)| {
        line.split(|c| !is_word(c))
            .filter(|w| !w.is_empty())
            .map(move |w| (i + 1, w))
    })
}

/// A path named in code, absolute: `crate::partition::Writer` or `logweir_storage::Log`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    /// The line, from 1.
    pub(super) line: usize,
    /// Its segments; the first is `crate` or the name of a crate.
    pub(super) segments: Vec<String>,
}

/// The paths that code names, in `use` trees and in place, with `self` and `super` resolved for a
/// file that is module `module` (`["grpc", "produce"]`; empty for the crate's root).
///
/// Paths that begin with none of `crate`, `self`, `super` are kept as they are. Inside an inline
/// module `super` counts from the file: at worst a path comes out one module too high, where no rule
/// of ours looks.
pub(super) fn paths(code: &str, module: &[String]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut tokens = tokens(code).into_iter().peekable();
    let mut last = String::new();
    while let Some(token) = tokens.peek().cloned() {
        let begins = token.text.starts_with(is_word) && last != "::" && last != ".";
        last.clone_from(&token.text);
        if !begins {
            tokens.next();
            continue;
        }
        let mut trees = Vec::new();
        tree(&mut tokens, &[], &mut trees);
        found.extend(trees.into_iter().filter(|p| p.segments.len() > 1));
    }
    for path in &mut found {
        path.segments = absolute(&path.segments, module);
    }
    found
}

#[derive(Clone)]
struct Token {
    line: usize,
    text: String,
}

/// Words, `::`, and every other visible character alone.
fn tokens(code: &str) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::new();
    let mut glue = false;
    for (i, line) in code.lines().enumerate() {
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ':' && chars.peek() == Some(&':') {
                chars.next();
                out.push(Token {
                    line: i + 1,
                    text: "::".into(),
                });
                glue = false;
            } else if is_word(c) {
                match out.last_mut() {
                    Some(word) if glue => word.text.push(c),
                    _ => out.push(Token {
                        line: i + 1,
                        text: c.into(),
                    }),
                }
                glue = true;
            } else {
                if !c.is_whitespace() {
                    out.push(Token {
                        line: i + 1,
                        text: c.into(),
                    });
                }
                glue = false;
            }
        }
        glue = false;
    }
    out
}

/// Reads one path or use tree: `a::b::{c, d::e as f}`.
fn tree(
    tokens: &mut std::iter::Peekable<std::vec::IntoIter<Token>>,
    prefix: &[String],
    found: &mut Vec<NamedPath>,
) {
    let mut segments = prefix.to_vec();
    let mut line = tokens.peek().map_or(0, |t| t.line);
    while let Some(token) = tokens.peek() {
        if !token.text.starts_with(is_word) {
            break;
        }
        line = token.line;
        segments.push(token.text.clone());
        tokens.next();
        if tokens.peek().is_none_or(|t| t.text != "::") {
            break;
        }
        tokens.next();
        if tokens.peek().is_some_and(|t| t.text == "{") {
            tokens.next();
            group(tokens, &segments, found);
            return;
        }
    }
    found.push(NamedPath { line, segments });
}

/// The inside of `{…}` of a use tree, the closing brace included.
fn group(
    tokens: &mut std::iter::Peekable<std::vec::IntoIter<Token>>,
    prefix: &[String],
    found: &mut Vec<NamedPath>,
) {
    while let Some(token) = tokens.peek() {
        match token.text.as_str() {
            "}" => {
                tokens.next();
                return;
            }
            "as" => {
                tokens.next();
                tokens.next();
            }
            text if text.starts_with(is_word) => tree(tokens, prefix, found),
            _ => {
                tokens.next();
            }
        }
    }
}

fn absolute(segments: &[String], module: &[String]) -> Vec<String> {
    let supers = segments.iter().take_while(|s| *s == "super").count();
    let starts_here = segments[0] == "self";
    if supers == 0 && !starts_here {
        return segments.to_vec();
    }
    let base = &module[..module.len().saturating_sub(supers)];
    let rest = &segments[supers.max(usize::from(starts_here))..];
    std::iter::once("crate".to_owned())
        .chain(base.iter().cloned())
        .chain(rest.iter().cloned())
        .collect()
}

#[test]
fn code_is_what_remains_without_comments_and_literals() {
    let check = |source: &str, words_left: &[&str]| {
        let code = code_of(source);
        assert_eq!(code.lines().count(), source.lines().count(), "{source}");
        assert_eq!(
            words(&code).map(|(_, w)| w).collect::<Vec<_>>(),
            words_left,
            "{source}"
        );
    };
    check("a // unsafe\nb", &["a", "b"]);
    check("a /* x /* y */ z */ b", &["a", "b"]);
    check(r#"f("unsafe \" still", 'u', '\'', b"raw")"#, &["f"]);
    check(r###"f(r#"a "quoted" word"#, br"x") + g"###, &["f", "g"]);
    check(
        "fn f<'a>(r: &'a str) {}",
        &["fn", "f", "a", "r", "a", "str"],
    );
    check(
        "for r in 0..2 { var\"x\" }",
        &["for", "r", "in", "0", "2", "var"],
    );
}

#[test]
fn paths_are_seen_through_groups_renames_and_super() {
    let check = |code: &str, expected: &[&str]| {
        let module = ["grpc".to_owned(), "produce".to_owned()];
        let found: Vec<String> = paths(&code_of(code), &module)
            .iter()
            .map(|p| p.segments.join("::"))
            .collect();
        assert_eq!(found, expected, "{code}");
    };
    check(
        "use crate::partition::Writer;",
        &["crate::partition::Writer"],
    );
    check(
        "use crate::{service::{self, Produce as P}, partition::Set};",
        &[
            "crate::service::self",
            "crate::service::Produce",
            "crate::partition::Set",
        ],
    );
    check(
        "use super::super::metadata::Image;",
        &["crate::metadata::Image"],
    );
    check("use super::server;", &["crate::grpc::server"]);
    check(
        "let x = crate :: partition ::\n  open();",
        &["crate::partition::open"],
    );
    check(
        "self.partition.get(x); a::b(self::c::d)",
        &["a::b", "crate::grpc::produce::c::d"],
    );
    check(
        "x.collect::<Vec<crate::storage::Log>>()",
        &["crate::storage::Log"],
    );
}
