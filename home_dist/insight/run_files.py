"""Names in what a run writes. Imported without numpy, for commands that only list runs."""

CURVES, FINDINGS, TABLES, VALIDATIONS = "curves.jsonl", "findings.jsonl", "tables.jsonl", "validations.jsonl"
"""Files of the folder insight/, beside one .npz per sampled step."""

MEASURES = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "mae": "MAE", "xauc": "XAUC"}
"""By their names in evaluation.json. Their means are over the tasks that have them."""
