"""How finished runs are shown: the report page, its tables and pictures."""
