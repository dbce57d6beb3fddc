"""What a run leaves behind and how it is shown: records, tables, figures, the report page."""
