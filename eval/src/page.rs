//! A report page that opens anywhere: one HTML file with its pictures inside.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nextclip_core::Picture;
use nextclip_media::save_png;

use crate::table::Table;

/// A page from top to bottom.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Above all.
    pub title: String,
    /// What was found, in a sentence.
    pub verdict: String,
    /// The numbers that matter most: value and what it is.
    pub headline: Vec<(String, String)>,
    /// What was measured how: names and values.
    pub facts: Vec<(String, String)>,
    /// Its parts.
    pub sections: Vec<PageSection>,
}

/// A part of a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageSection {
    /// Its heading.
    pub title: String,
    /// Paragraphs above its tables.
    pub text: Vec<String>,
    /// Numbers.
    pub tables: Vec<Table>,
    /// Pictures.
    pub figures: Vec<Figure>,
}

/// A picture of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its file beside the page, without ending.
    pub name: String,
    /// Below it.
    pub caption: String,
    /// The picture itself.
    pub picture: Picture,
    /// Whether it takes the whole width; others stand side by side.
    pub wide: bool,
}

const STYLE: &str = "\
:root{--ink:#24262c;--grey:#6a6e76;--rule:#dededa;--paper:#fcfcfa;--blue:#1f62b2}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,'Segoe UI',Helvetica,Arial,sans-serif}
main{max-width:1280px;margin:0 auto;padding:40px 28px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px}h2{font-size:21px;margin:48px 0 8px;border-top:1px solid var(--rule);padding-top:20px}
p{max-width:80ch;margin:8px 0}.verdict{font-size:19px}.headline{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:14px;margin:22px 0}
.headline div{border:1px solid var(--rule);border-radius:8px;padding:12px 18px;background:#fff}
.headline b{display:block;font-size:25px;color:var(--blue);font-variant-numeric:tabular-nums}.headline span{color:var(--grey);font-size:14px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;font-size:14px}dt{color:var(--grey)}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:16px 0;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:4px 12px;text-align:right;border-bottom:1px solid var(--rule)}th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{color:var(--grey);font-weight:600}tbody tr:first-child td{font-weight:600}
.figures{display:flex;flex-wrap:wrap;gap:18px}figure{margin:10px 0;width:602px;max-width:100%}img{max-width:100%;height:auto;border:1px solid var(--rule);border-radius:6px}
figcaption{color:var(--grey);font-size:14px}.wide{width:100%}
@media print{body{font-size:12px}h2{break-after:avoid}figure{break-inside:avoid}}";

impl Page {
    /// Writes `report.html` into `folder`, and each picture beside it as PNG for use elsewhere. The page
    /// itself needs none of them. Returns its path.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let html = self.html(folder)?;
        let path = folder.join("report.html");
        fs::write(&path, html).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn html(&self, folder: &Path) -> Result<String> {
        let mut html = String::new();
        let title = escaped(&self.title);
        write!(
            html,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{title}</title><style>{STYLE}</style></head><body><main>\n<h1>{title}</h1>\n\
             <p class=\"verdict\">{}</p>\n<div class=\"headline\">",
            escaped(&self.verdict)
        )?;
        for (value, what) in &self.headline {
            write!(html, "<div><b>{}</b><span>{}</span></div>", escaped(value), escaped(what))?;
        }
        html.push_str("</div>\n<dl>");
        for (name, value) in &self.facts {
            write!(html, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value))?;
        }
        html.push_str("</dl>\n");
        for section in &self.sections {
            section.write(&mut html, folder)?;
        }
        html.push_str("</main></body></html>\n");
        Ok(html)
    }
}

impl PageSection {
    fn write(&self, html: &mut String, folder: &Path) -> Result<()> {
        writeln!(html, "<section><h2>{}</h2>", escaped(&self.title))?;
        for text in &self.text {
            writeln!(html, "<p>{}</p>", escaped(text))?;
        }
        for table in &self.tables {
            write_table(html, table)?;
        }
        html.push_str("<div class=\"figures\">");
        for figure in &self.figures {
            let path = folder.join(format!("{}.png", figure.name));
            save_png(&path, &figure.picture)?;
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let (height, width, _) = figure.picture.dim();
            let (class, caption) =
                (if figure.wide { " class=\"wide\"" } else { "" }, escaped(&figure.caption));
            writeln!(
                html,
                "<figure{class}><img width=\"{width}\" height=\"{height}\" alt=\"{caption}\" \
                 src=\"data:image/png;base64,{}\"><figcaption>{caption}</figcaption></figure>",
                base64(&bytes)
            )?;
        }
        html.push_str("</div></section>\n");
        Ok(())
    }
}

fn write_table(html: &mut String, table: &Table) -> Result<()> {
    write!(html, "<div class=\"scroll\"><table><thead><tr><th>{}</th>", escaped(&table.title))?;
    for column in &table.columns {
        write!(html, "<th>{}</th>", escaped(column))?;
    }
    html.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        write!(html, "<tr><td>{}</td>", escaped(&row.label))?;
        for value in &row.values {
            write!(html, "<td>{}</td>", table.shown(*value))?;
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |k: usize| u32::from(chunk.get(k).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]);
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_standard() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xfe]), "/+/+");
    }

    #[test]
    fn names_cannot_break_the_page() {
        let folder = tempfile::tempdir().unwrap();
        let page = Page {
            title: "<script> & \"more\"".into(),
            sections: vec![PageSection {
                title: "s".into(),
                tables: vec![Table::new("t", ["c".into()], 1).with("row", vec![f64::NAN])],
                figures: vec![Figure {
                    name: "figure".into(),
                    caption: "a <b>".into(),
                    picture: Picture::zeros((2, 3, 3)),
                    wide: false,
                }],
                ..PageSection::default()
            }],
            ..Page::default()
        };
        let path = page.write(folder.path()).unwrap();
        let html = fs::read_to_string(path).unwrap();
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt; &amp; &quot;more&quot;"));
        assert!(html.contains("<td>-</td>") && html.contains("data:image/png;base64,iVBOR"));
        assert!(folder.path().join("figure.png").is_file());
    }
}
