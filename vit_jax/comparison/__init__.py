"""Comparing finished runs: what each workdir tells, one row for the seeds of a config, a table and a picture."""
