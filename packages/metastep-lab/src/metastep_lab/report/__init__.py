"""The report page about finished runs, its tables and pictures."""
