//! The page in a browser: the picture is there, looking at it names what is live, nothing goes wrong.

use std::path::Path;

use plimsoll::cost::Problem;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::{Folder, GPT, TINY, hostile, large, succeed};

/// The smallest contrast of any text with what is behind it.
const CONTRAST: &str = r#"(() => {
  const parts = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const light = (rgb) => { const [r, g, b] = rgb.map((x) => { x /= 255; return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (; node; node = node.parentElement) { const c = parts(getComputedStyle(node).backgroundColor); if (c.length === 3 || c[3] > 0.99) return c; } return [255, 255, 255]; };
  let least = ["", 21];
  for (const node of document.querySelectorAll("body *:not(script):not(noscript)")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(parts(node.closest("svg") ? style.fill : style.color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[1]) least = [node.textContent, ratio];
  }
  return least;
})()"#;

const NAMED: &str = "document.getElementById('inspector').innerText";
const STEP: &str = "Number(document.getElementById('plot').getAttribute('aria-valuenow'))";

/// One page on one screen: the picture is there, looking at it names values, nothing goes wrong.
fn look(browser: &mut Browser, page: &Path, (width, colours): (u32, &str), largest: &str) {
    browser.screen(width, 900, colours);
    browser.open(page);
    let at = format!("{width} pixels, {colours}");
    // The areas stand on one another and fill a good part of the picture.
    let areas = browser.value("[...document.querySelectorAll('#chart .area')].map((p) => { const b = p.getBBox(); return b.width * b.height; })");
    let areas: Vec<f64> = serde_json::from_value(areas).unwrap();
    assert!(areas.len() >= 3 && areas.iter().sum::<f64>() > 10_000.0, "{at}: {areas:?}");
    let hatched = browser.value("document.querySelectorAll('#chart .lane.k6 + .kh').length && document.querySelector('#chart .lane.k6').getBBox().width > 1");
    assert_eq!(hatched, true, "{at}: what runs again is hatched, in a row of its own");
    assert_eq!(browser.value("document.querySelectorAll('#chart .budget').length > 1"), true);
    assert_eq!(browser.value("document.querySelectorAll('#curve .dot').length >= 2"), true);
    let peaks = browser.value(
        "DATA.plans.every((plan, index) => plan.peak === planAt(index).total.reduce((a, b) => Math.max(a, b), 0))",
    );
    assert_eq!(peaks, true, "{at}: what the page adds up is what the simulator says");
    let overflow = browser.value("document.documentElement.scrollWidth - innerWidth");
    assert!(overflow.as_f64().unwrap() <= 0.0, "{at}: the page is {overflow} pixels too wide");
    let contrast = browser.value(CONTRAST);
    assert!(contrast[1].as_f64().unwrap() >= 4.5, "{at}: {contrast}");

    let corner = browser.value("(() => { const r = document.getElementById('chart').getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()");
    let [left, top, wide, high]: [f64; 4] = serde_json::from_value(corner).unwrap();
    let start = browser.value(STEP);
    match width < 600 {
        true => browser.touch(left + wide * 0.7, top + high * 0.4),
        false => browser.mouse("mouseMoved", left + wide * 0.7, top + high * 0.4),
    }
    let hovered = browser.value(STEP).as_u64().unwrap();
    assert_ne!(start, hovered, "{at}");
    let named = browser.text(NAMED);
    let plain = named.replace(',', "");
    assert!(plain.contains(&format!("Step {hovered} of ")) && named.contains(" live"), "{at}: {named}");
    assert!(named.contains(largest), "{at}: {largest} is not in {named}");
    browser.value("document.getElementById('plot').focus()");
    browser.key("ArrowRight");
    assert_eq!(browser.value(STEP), hovered + 1, "{at}");
    browser.key("Home");
    assert_eq!(browser.value(STEP), 0, "{at}");
    assert!(browser.text("document.getElementById('plot').getAttribute('aria-valuetext')").starts_with("Step 0 of "));
    assert_eq!(browser.complaints(), Vec::<String>::new(), "{at}");
}

#[test]
fn pages_work_in_a_browser() {
    let folder = Folder::new();
    let Some(mut browser) = Browser::start() else { return };
    let page = folder.path("out.html");
    let out = page.to_str().unwrap();
    browser.call("Emulation.setTouchEmulationEnabled", json!({"enabled": true}));

    let problem = Problem::load(GPT).unwrap();
    let plan = folder.forgetful("gpt.plan.json", &problem, 40);
    let kept = folder.plan("kept.plan.json", &problem, plimsoll::solver::baseline(&problem).0);
    succeed(&["report", GPT, &plan, &kept, "-o", out]);
    for screen in [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")] {
        look(&mut browser, &page, screen, "16.00 MiB");
    }
    the_rest_of_the_page(&mut browser);

    for (problem, plan) in degenerate(&folder) {
        succeed(&["report", &problem, &plan, "-o", out]);
        browser.open(&page);
        browser.value("document.getElementById('plot').focus()");
        ["ArrowRight", "+", "End", "-", "p", "0"].iter().for_each(|key| browser.key(key));
        browser.value("document.getElementById('axis').click()");
        assert!(!browser.text("document.body.innerText").contains("NaN"));
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{problem}");
    }

    let (problem, plan) = hostile(&folder);
    succeed(&["report", &problem, &plan, "-o", out, "--svg", &folder.name("out.svg")]);
    look(&mut browser, &page, (360, "light"), "4.00 KiB");
    assert_eq!(
        browser.value("window.pwned === undefined && document.querySelector('main img, main i') === null"),
        true
    );
    assert!(browser.text("document.querySelector('h1').textContent").contains("</script><script>window.pwned"));
    browser.open(&folder.path("out.svg"));
    let well_formed = "document.documentElement.tagName + document.querySelectorAll('parsererror').length";
    assert_eq!(browser.text(well_formed), "svg0");

    let (problem, plan) = large(&folder);
    succeed(&["report", &problem, &plan, "-o", out]);
    look(&mut browser, &page, (1280, "light"), "8.00 KiB");
    let drawn =
        browser.value("(() => { const before = performance.now(); zoomAll(); return performance.now() - before; })()");
    println!("the picture of a large plan is drawn in {drawn} ms");
    let longest = browser
        .value("Math.max(...[...document.querySelectorAll('#chart path')].map((p) => p.getAttribute('d').length))");
    assert!(longest.as_f64().unwrap() < 60_000.0, "paths are of a point a pixel, not a step: {longest}");
}

/// A step that takes no time, one without ops, and a plan without a budget.
fn degenerate(folder: &Folder) -> [(String, String); 3] {
    let mut idle: Value = serde_json::from_str(&std::fs::read_to_string(TINY).unwrap()).unwrap();
    idle["ops"].as_array_mut().unwrap().iter_mut().for_each(|op| op["time"] = json!(0));
    let idle = folder.write("idle.problem.json", &idle.to_string());
    let empty = json!({"format": "plimsoll.problem", "version": 1, "values": [{"bytes": 5}], "ops": [], "resident": [0],
        "outputs": []});
    let empty = folder.write("empty.problem.json", &empty.to_string());
    let plan = |problem: &str, name: &str| {
        let plan = folder.name(name);
        succeed(&["plan", problem, "--budget", "unlimited", "-o", &plan]);
        plan
    };
    [(idle.clone(), plan(&idle, "idle")), (empty.clone(), plan(&empty, "empty")), (TINY.to_owned(), plan(TINY, "tiny"))]
}

/// What a page does beside its picture, on the page of two plans of the GPT.
fn the_rest_of_the_page(browser: &mut Browser) {
    browser.screen(1280, 900, "light");
    // Colours: as the system has them, then light, then dark.
    let paper = "getComputedStyle(document.body).backgroundColor";
    let light = browser.text(paper);
    for _ in 0..2 {
        browser.value("document.getElementById('theme').click()");
    }
    assert_ne!(browser.text(paper), light);
    browser.value("document.getElementById('theme').click()");
    assert_eq!(browser.text(paper), light);
    // Another plan.
    let peak = "document.querySelector('#figures dd').textContent";
    let before = browser.text(peak);
    browser.value("document.querySelectorAll('#plans input')[1].click()");
    assert_ne!(browser.text(peak), before);
    browser.value("document.querySelectorAll('#plans input')[0].click()");
    assert_eq!(browser.text(peak), before);
    // A value of the table is shown with its lives below the lanes.
    browser.value("document.querySelectorAll('#values button.link')[3].click()");
    assert_eq!(browser.value("document.querySelectorAll('#chart .life').length >= 1"), true);
    let order = "[...document.querySelectorAll('#values tbody tr')].map((row) => row.cells[0].textContent).join()";
    let by_size = browser.text(order);
    browser.value("document.querySelector('#values [data-key=again]').click()");
    assert_ne!(browser.text(order), by_size);
    // Closer, and back.
    let ticks = "[...document.querySelectorAll('#chart text')].map((t) => t.textContent).join()";
    let far = browser.text(ticks);
    browser.value("document.getElementById('plot').focus()");
    browser.key("+");
    assert_ne!(browser.text(ticks), far);
    browser.key("0");
    assert_eq!(browser.text(ticks), far);
    browser.value("document.getElementById('axis').click()");
    assert_ne!(browser.text(ticks), far);
    assert_eq!(browser.text("document.getElementById('axis').getAttribute('aria-pressed')"), "true");
    browser.value("document.getElementById('axis').click()");
    assert_eq!(browser.text(ticks), far);
    let corner = browser.value("(() => { const r = document.getElementById('chart').getBoundingClientRect(); return [r.left, r.top, r.width]; })()");
    let [left, top, wide]: [f64; 3] = serde_json::from_value(corner).unwrap();
    browser.mouse("mousePressed", left + wide * 0.4, top + 100.0);
    browser.call(
        "Input.dispatchMouseEvent",
        json!({"type": "mouseMoved", "x": left + wide * 0.5, "y": top + 100.0, "button": "left", "buttons": 1}),
    );
    browser.mouse("mouseReleased", left + wide * 0.5, top + 100.0);
    assert_ne!(browser.text(ticks), far);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
