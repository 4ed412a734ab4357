"""How figures are written for a person."""


def number(value: float) -> str:
    """As many digits as mean something, thousands apart: 16 000, 4.8, 0.25."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", " ")


def percent(value: float) -> str:
    return f"{value:.1%}" if value < 0.01 else f"{value:.0%}"
