"""Line charts with logarithmic axes, as SVG text."""

from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 110, 45, 70, 50

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]


def chart(title, x_label, y_label, series, show=str):
    """Draws `series`, a dictionary from names to lists of points; `show` words the values of the y axis."""
    points = [point for line in series.values() for point in line]
    x, x_ticks = axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    y, y_ticks = axis([y for _, y in points], HEIGHT - BOTTOM, TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="13" fill="#222">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]

    def text(left, top, words, anchor="start", more=""):
        out.append(f'<text x="{left:.0f}" y="{top:.0f}" text-anchor="{anchor}"{more}>{escape(words)}</text>')

    def line(x1, y1, x2, y2, colour, width=1):
        out.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
        )

    text(LEFT, 22, title, more=' font-size="15" font-weight="bold"')
    for value in x_ticks:
        line(x(value), TOP, x(value), HEIGHT - BOTTOM, "#ddd")
        text(x(value), HEIGHT - BOTTOM + 18, f"{value:,.0f}", "middle")
    for value in y_ticks:
        line(LEFT, y(value), WIDTH - RIGHT, y(value), "#ddd")
        text(LEFT - 8, y(value) + 4, show(value), "end")
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label, "middle")
    text(16, (TOP + HEIGHT - BOTTOM) / 2, y_label, "middle", f' transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})"')

    left = LEFT
    for (name, line_points), colour in zip(series.items(), COLOURS):
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in line_points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="3" fill="{colour}"/>' for px, py in line_points]
        line(left, 46, left + 24, 46, colour, 2)
        text(left + 30, 50, name)
        left += 54 + 7 * len(name)
    return "\n".join([*out, "</svg>"]) + "\n"


def axis(values, start, end):
    """A logarithmic scale from `start` to `end` that starts and ends at powers of ten, and these powers."""
    first, last = floor(log10(min(values))), ceil(log10(max(values)))
    last = max(last, first + 1)

    def place(value):
        return start + (log10(value) - first) / (last - first) * (end - start)

    return place, [10.0**power for power in range(first, last + 1)]
