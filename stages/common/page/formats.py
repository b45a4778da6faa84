"""Numbers as text for people, the same in the report, on the sweep's page and on the terminal."""


def format_number(value: float) -> str:
    """Return digits grouped by thousands, with decimals only if the value is not whole."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def format_duration(seconds: float) -> str:
    """Return `4.7 s`, `47 s`, `6 min 12 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_memory(mib: float | None) -> str:
    return "" if mib is None else f"{mib / 1024:.1f} GiB"


def format_percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def format_points(share: float) -> str:
    """Return a difference of shares as signed percentage points: `+1.2`, `-0.6`, `0.0`."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def format_p_value(p: float) -> str:
    """Return a p-value with its relation: `= 0.18`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def format_chance(p: float) -> str:
    """Return a probability as a percentage: `18%`, `4.2%`, `fewer than 0.1%`."""
    return "fewer than 0.1%" if p < 0.001 else f"{100 * p:.1f}%" if p < 0.1 else f"{100 * p:.0f}%"
