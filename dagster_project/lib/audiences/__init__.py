"""Audiences that marketers declare: `dbt/audiences/<name>.yaml`, a form of conditions, becomes a dbt model and its exposure.

`form` is what a file may say, `known` what its names may stand for, `sentences` and `sql` say each condition in words and in
SQL, `project` reads and checks all files and writes the models, `preview` answers what an audience would be, without dbt.

The models are plain SQL below `dbt/models/audiences/made/`, as an analyst would write it: a CTE for each condition that reads
a table of its own, `judged` with a column for each condition, and one `where`. They are not in git: every command that reads
the dbt project writes them anew, as it does the sources, so that they cannot drift from the YAML.

An audience is a table that each refresh builds whole. What a rebuild over touched customers only would need: a condition that
changes by time alone (`within_days`) has to say when it next does for each customer (as `meta.due_at` does in analytics), a
referenced audience or a group of exclusive ones has to pass on who came and went, and the control group needs nothing.
"""
