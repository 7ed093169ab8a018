//! The page: one file with everything in it, which asks nothing of a network.

use plimsoll::cost::Problem;

use super::category::Categories;
use super::data::Page;
use super::picture::Picture;
use super::svg;
use super::text::{in_script, markup};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// In the order in which they need one another.
const SCRIPTS: [&str; 8] = [
    include_str!("js/data.js"),
    include_str!("js/draw.js"),
    include_str!("js/memory.js"),
    include_str!("js/lanes.js"),
    include_str!("js/inspect.js"),
    include_str!("js/curve.js"),
    include_str!("js/values.js"),
    include_str!("js/page.js"),
];

/// The page as text.
pub fn page(problem: &Problem, categories: &Categories, pictures: &[Picture], data: &Page) -> String {
    let name = if problem.name.is_empty() { "(unnamed)".to_owned() } else { markup(&problem.name) };
    let data = in_script(&serde_json::to_string(data).expect("a page is plain data"));
    let shown = &pictures[..pictures.len().min(1)];
    let fill = |key: &str| match key {
        "name" => name.clone(),
        "style" => STYLE.to_owned(),
        "data" => data.clone(),
        "script" => SCRIPTS.concat(),
        "still" => svg::draw(problem, categories, shown),
        other => format!("{{{{{other}}}}}"),
    };
    filled(PAGE, &fill)
}

/// A template with each `{{key}}` filled in, once: what is filled in is not looked at again.
fn filled(template: &str, fill: &dyn Fn(&str) -> String) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{")
        && let Some((key, after)) = after.split_once("}}")
    {
        text.push_str(before);
        text.push_str(&fill(key));
        rest = after;
    }
    text.push_str(rest);
    text
}
