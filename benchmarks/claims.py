"""The last lines of a benchmark: one per figure asked for."""


def claim(name: str, value: float, goal: float, at_most: bool = False, form: str = ".2f", goal_form: str = "g") -> str:
    """Judged before rounding: 0.899 does not meet 0.9. form, goal_form: how both numbers are written."""
    met = value <= goal if at_most else value >= goal
    sign = "<=" if at_most else ">="
    return f"claim: {name} = {value:{form}} (goal {sign} {goal:{goal_form}}): {'met' if met else 'short'}"
