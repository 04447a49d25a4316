//! Relative links in Markdown, and the anchors that GitHub gives to headings.

use std::path::Path;

use super::{read, root};

/// The lines of a document outside of fenced code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The targets of all links and images that stay in the repository.
pub(super) fn relative(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for line in prose(text) {
        // Every other part is a code span.
        let text: String = line.split('`').step_by(2).collect();
        for (start, end) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            let parts = text.split(start).skip(1);
            targets.extend(parts.filter_map(|part| Some(part.split_once(end)?.0.to_owned())));
        }
        // [name]: target
        if let Some((name, target)) = text.split_once("]: ")
            && name.starts_with('[')
        {
            targets.push(target.to_owned());
        }
    }
    let targets = targets.iter();
    let targets = targets.filter_map(|target| target.split_whitespace().next());
    let targets = targets.map(|target| target.trim_matches(['<', '>']));
    let is_relative = |target: &&str| !target.contains("://") && !target.starts_with("mailto:");
    targets.filter(is_relative).map(str::to_owned).collect()
}

/// Checks that the file of a link exists, and the heading if the link names one.
pub(super) fn resolve(document: &Path, target: &str) -> Result<(), String> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() {
        document.to_owned()
    } else {
        document.with_file_name("").join(path)
    };
    if path.starts_with('/') || !root().join(&file).exists() {
        return Err(format!("there is no file {target}"));
    }
    let is_markdown = file.extension().is_some_and(|extension| extension == "md");
    if !anchor.is_empty() && is_markdown && !anchors(&read(&file)).iter().any(|a| a == anchor) {
        return Err(format!("there is no heading {target}"));
    }
    Ok(())
}

/// The anchors of all headings, and those set by hand.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for line in prose(text) {
        for start in ["id=\"", "name=\""] {
            let parts = line.split(start).skip(1);
            anchors.extend(parts.filter_map(|part| Some(part.split_once('"')?.0.to_owned())));
        }
        let Some(heading) = line.trim_start_matches('#').strip_prefix(' ') else {
            continue;
        };
        if !line.starts_with('#') {
            continue;
        }
        let slug = slug(heading);
        let same = |anchor: &&String| {
            let suffix = anchor.strip_prefix(&slug);
            suffix.is_some_and(|s| s.is_empty() || s.strip_prefix('-').is_some_and(is_number))
        };
        match anchors.iter().filter(same).count() {
            0 => anchors.push(slug),
            count => anchors.push(format!("{slug}-{count}")),
        }
    }
    anchors
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn slug(heading: &str) -> String {
    // Of a link in a heading only the text counts.
    let mut text = String::new();
    for part in heading.trim().split("](") {
        let rest = if text.is_empty() {
            part
        } else {
            part.split_once(')').map_or("", |(_, rest)| rest)
        };
        text.push_str(rest);
    }
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then_some(c),
    });
    kept.collect::<String>().to_lowercase()
}

#[test]
fn links_and_anchors_are_read_as_github_reads_them() {
    let text = "\
# A [linked](x.md) title: `--keep-versions`

See [one](docs/a.md#b) and [the
other](<c.md> \"title\"), not `[code](no.md)` or [the web](https://example.com/d.md).

```text
[code](no.md)
# not a heading
```

## Use it

## Use it

[name]: e.md
<img src=\"f.png\">
";
    assert_eq!(
        relative(text),
        ["x.md", "docs/a.md#b", "c.md", "e.md", "f.png"]
    );
    assert_eq!(
        anchors(text),
        ["a-linked-title---keep-versions", "use-it", "use-it-1"]
    );
    let readme = Path::new("README.md");
    assert_eq!(resolve(readme, "node-red-flows/README.md"), Ok(()));
    assert!(resolve(readme, "no-such-file.md").is_err());
    assert!(resolve(readme, "README.md#no-such-heading").is_err());
}
