//! Pictures of what was measured: panels with lines, one below the other, as SVG.

use blockferry_control::bench::Run;
use plotters::prelude::*;

use super::report::{step_rate, steps};

/// Size of a panel in pixels.
const WIDTH: u32 = 900;
const HEIGHT: u32 = 380;
/// Room beside the axes.
const MARGIN: u32 = 16;
const LEFT_LABELS: u32 = 72;
const BOTTOM_LABELS: u32 = 48;
/// The names of the lines, at the right of a panel.
const LEGEND_WIDTH: u32 = 210;
const LEGEND_LEFT: i32 = 710;
const LEGEND_TOP: i32 = 60;
const LEGEND_STEP: i32 = 21;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Told apart by those who see no red and green, too, and on white.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x7a, 0x5b, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x55, 0x55, 0x55),
];
/// Labels at an axis, about.
const LABELS: usize = 10;
/// Lines in a panel at most: more cannot be told apart.
const MAX_LINES: usize = 14;

/// A line of a panel.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A panel: y over x.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    /// Whether x counts something.
    pub(super) whole_x: bool,
    pub(super) lines: Vec<Line>,
}

/// MiB/s over time, a line for each run; `name` says which is which.
pub(super) fn over_time(title: String, runs: &[Run], name: impl Fn(&Run) -> String) -> Panel {
    let lines = runs.iter().map(|run| Line {
        name: name(run),
        points: steps(run)
            .filter(|step| !step.length.is_zero())
            // In the middle of what it is the mean of.
            .map(|step| {
                let middle = step.at - step.length / 2;
                (middle.as_secs_f64(), step_rate(step.bytes, step.length))
            })
            .collect(),
    });
    Panel { title, x: "seconds", y: "MiB/s", whole_x: false, lines: lines.collect() }
}

/// Draws the panels.
///
/// # Errors
/// What the library says.
pub(super) fn svg(panels: &[Panel]) -> anyhow::Result<String> {
    let count = u32::try_from(panels.len().max(1)).unwrap_or(1);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT * count)).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("{error}");
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        for (area, panel) in root.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
            draw(area, panel).map_err(|error| failed(&error))?;
        }
        root.present().map_err(|error| failed(&error))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Unwritten<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw<'a>(area: &Area<'a>, panel: &Panel) -> Result<(), Unwritten<'a>> {
    let lines = &panel.lines[..panel.lines.len().min(MAX_LINES)];
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    // Nothing at all still has axes.
    let right = if most(|point| point.0) > 0.0 { most(|point| point.0) * 1.03 } else { 1.0 };
    let top = if most(|point| point.1) > 0.0 { most(|point| point.1) * 1.12 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN)
        .margin_right(LEGEND_WIDTH)
        .caption(&panel.title, (FONT, 18).into_font().color(&INK))
        .x_label_area_size(BOTTOM_LABELS)
        .y_label_area_size(LEFT_LABELS)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .x_labels(if panel.whole_x { whole_labels(right) } else { LABELS })
        .x_desc(panel.x)
        .y_desc(panel.y)
        .axis_style(INK)
        .max_light_lines(0)
        .bold_line_style(GRID)
        .label_style((FONT, 13).into_font().color(&INK))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    for (index, line) in lines.iter().enumerate() {
        let style = style(index);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(3))?;
        // Beside the panel, where no line can run through it.
        let y = LEGEND_TOP + LEGEND_STEP * i32::try_from(index).unwrap_or(0);
        area.draw(&PathElement::new([(LEGEND_LEFT, y), (LEGEND_LEFT + 22, y)], style))?;
        area.draw(&Circle::new((LEGEND_LEFT + 11, y), 3, style))?;
        let font = (FONT, 13).into_font().color(&INK);
        area.draw(&Text::new(line.name.clone(), (LEGEND_LEFT + 30, y - 6), font))?;
    }
    Ok(())
}

/// How a line is drawn. The second time round, lines are thinner.
fn style(index: usize) -> ShapeStyle {
    let width = if index < COLOURS.len() { 2 } else { 1 };
    COLOURS[index % COLOURS.len()].stroke_width(width)
}

/// Labels at an axis whose numbers are whole: no more than there are such numbers.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole_labels(right: f64) -> usize {
    // It is small and positive.
    (right as usize + 1).min(LABELS)
}

/// A number at an axis: no more digits than it needs.
fn number(value: &f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_has_its_title_axes_and_legend_and_nothing_of_a_name_is_taken_for_markup() {
        let line = Line { name: "a <b> & c".into(), points: vec![(0.0, 10.0), (1.0, 2000.0)] };
        let panel = Panel {
            title: "What".into(),
            x: "seconds",
            y: "MiB/s",
            whole_x: false,
            lines: vec![line],
        };
        let text = svg(&[panel.clone(), panel]).unwrap();
        for word in ["What", "seconds", "MiB/s", "a &lt;b&gt; &amp; c"] {
            assert_eq!(text.matches(word).count(), 2, "{word}");
        }
        assert!(text.contains("height=\"760\"") && text.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        assert!(svg(&[]).unwrap().contains("<svg"));
    }

    #[test]
    fn numbers_have_the_digits_that_they_need() {
        assert_eq!([number(&0.0), number(&0.5), number(&1200.0)], ["0", "0.5", "1200"]);
    }
}
