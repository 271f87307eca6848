"""How versions for servers are written."""

from typing import Literal

RowType = Literal["fp32", "fp16", "int8"]
