"""Reports that a person reads: `report.md` of one run, one HTML page that compares several.

A report is made from run directories alone, by whom and whenever; no model code is needed.
"""

from rnn_jax.report.fields import ABSENT, Absent, differing_fields, flatten
from rnn_jax.report.markdown import markdown_table, write_report
from rnn_jax.report.numbers import Curve, Spread, Summary, mean_curve, summarize, summary_text
from rnn_jax.report.page import write_comparison
from rnn_jax.report.runs import RunGroup, RunRecord, group_runs, read_run, shared_settings

__all__ = [
    "ABSENT",
    "Absent",
    "Curve",
    "RunGroup",
    "RunRecord",
    "Spread",
    "Summary",
    "differing_fields",
    "flatten",
    "group_runs",
    "markdown_table",
    "mean_curve",
    "read_run",
    "shared_settings",
    "summarize",
    "summary_text",
    "write_comparison",
    "write_report",
]
