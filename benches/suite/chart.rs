//! A line chart as SVG text: as much as the plots of this project need, and no more.

use std::fmt::Write;

pub struct Chart {
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    pub series: Vec<Series>,
    /// Each step of the y axis is ten times the one below.
    pub is_log: bool,
}

pub struct Series {
    pub name: String,
    /// By rising x.
    pub points: Vec<(f64, f64)>,
    /// Which of the colours; what is of one server has one.
    pub colour: usize,
    /// For what is not ours, or a second kind of the same.
    pub is_dashed: bool,
}

const WIDTH: f64 = 830.0;
const HEIGHT: f64 = 420.0;
/// The plot's own edges; the names of the series stand to its right.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 540.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 360.0;
/// Told apart also by those who see no red or green.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#000000"];

impl Chart {
    pub fn svg(&self) -> String {
        let mut out = String::new();
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_max = points().map(|(x, _)| *x).fold(1.0, f64::max);
        let y_max = points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max);
        let y_min = points().map(|(_, y)| *y).fold(y_max, f64::min);
        let axis = Axis::new(y_min, y_max, self.is_log);
        let x_at = |x: f64| LEFT + (RIGHT - LEFT) * x / x_max;
        let mut put = |text: String| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{text}");
        };
        put(format!(r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}""#));
        put(r##"  font-family="sans-serif" font-size="12" fill="#222222">"##.to_owned());
        put(r##"<rect width="100%" height="100%" fill="#ffffff"/>"##.to_owned());
        put(format!(r#"<text x="{LEFT}" y="26" font-size="15">{}</text>"#, escape(&self.title)));
        for tick in axis.ticks() {
            let y = axis.at(tick);
            put(line((LEFT, y), (RIGHT, y), "#dddddd", 1, ""));
            put(text((LEFT - 8.0, y + 4.0), "end", &number(tick)));
        }
        let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        for tick in ticks {
            put(text((x_at(tick), BOTTOM + 18.0), "middle", &number(tick)));
        }
        put(line((LEFT, TOP), (LEFT, BOTTOM), "#333333", 1, ""));
        put(line((LEFT, BOTTOM), (RIGHT, BOTTOM), "#333333", 1, ""));
        put(text(((LEFT + RIGHT) / 2.0, BOTTOM + 42.0), "middle", self.x));
        let turned = format!("translate(16 {:.1}) rotate(-90)", (TOP + BOTTOM) / 2.0);
        put(format!(r#"<g transform="{turned}">{}</g>"#, text((0.0, 0.0), "middle", self.y)));
        for (place, series) in self.series.iter().enumerate() {
            put(series.svg(place, &axis, x_at));
        }
        put("</svg>".to_owned());
        out
    }
}

impl Series {
    fn svg(&self, place: usize, axis: &Axis, x_at: impl Fn(f64) -> f64) -> String {
        let colour = COLOURS[self.colour % COLOURS.len()];
        let dash = if self.is_dashed { r#" stroke-dasharray="6 4""# } else { "" };
        let mut path = String::new();
        let mut dots = String::new();
        for (x, y) in &self.points {
            let (x, y) = (x_at(*x), axis.at(*y));
            path.push_str(&format!("{}{x:.1} {y:.1}", if path.is_empty() { 'M' } else { 'L' }));
            dots.push_str(&format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#));
        }
        let (x, y) = (RIGHT + 14.0, TOP + 10.0 + place as f64 * 20.0);
        format!(
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>{dots}{}{}"#,
            line((x, y), (x + 22.0, y), colour, 2, dash),
            text((x + 28.0, y + 4.0), "start", &self.name)
        )
    }
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str, width: u32, more: &str) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    let ends = format!(r#"x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}""#);
    format!(r#"<line {ends} stroke="{colour}" stroke-width="{width}"{more}/>"#)
}

fn text((x, y): (f64, f64), anchor: &str, text: &str) -> String {
    format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(text))
}

/// The y axis.
struct Axis {
    min: f64,
    max: f64,
    is_log: bool,
}

impl Axis {
    fn new(min: f64, max: f64, is_log: bool) -> Self {
        if is_log {
            let power = |value: f64| value.max(1e-6).log10();
            let (min, max) = (10_f64.powf(power(min).floor()), 10_f64.powf(power(max).ceil()));
            return Self { min, max: max.max(min * 10.0), is_log };
        }
        let step = step(max);
        Self { min: 0.0, max: (max / step).ceil() * step, is_log }
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.min) / self.min).log10() / (self.max / self.min).log10()
        } else {
            value / self.max
        };
        BOTTOM - (BOTTOM - TOP) * share
    }

    fn ticks(&self) -> Vec<f64> {
        let step = step(self.max);
        let next = |value: &f64| Some(if self.is_log { value * 10.0 } else { value + step });
        let is_within = |value: &f64| *value <= self.max * 1.0001;
        std::iter::successors(Some(self.min), next).take_while(is_within).collect()
    }
}

/// 1, 2 or 5 times a power of ten: some five of them up to `max`.
fn step(max: f64) -> f64 {
    let rough = max / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(rough)
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{},{:03}", value as u64 / 1000, value as u64 % 1000)
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
