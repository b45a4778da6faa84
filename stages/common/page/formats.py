"""Numbers as a person reads them: one way for the report, the sweep's page and the terminal."""


def format_number(value: float) -> str:
    """Digits in groups of three; decimals only for what is no whole number."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def format_duration(seconds: float) -> str:
    """`47 s`, `6 min 12 s`, `2 h 5 min`."""
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
    """Percentage points with a sign: `+1.2`, `-0.6`, `0.0`."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def format_p_value(p: float) -> str:
    """A p value with its sign: `= 0.18`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def format_chance(p: float) -> str:
    return "fewer than 0.1%" if p < 0.001 else f"{100 * p:.1f}%" if p < 0.1 else f"{100 * p:.0f}%"
