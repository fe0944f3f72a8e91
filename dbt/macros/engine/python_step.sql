{# Materialisation of tables that are state or need Python: the model's SQL says what the step reads, and the step, a function
   below dagster_project/lib/, brings its table up to that.

   Usage: config(materialized='python_step', step='identity.steps.assign') #}
{% materialization python_step, adapter='duckdb', supported_languages=['sql'] %}
    {{ run_hooks(pre_hooks) }}
    {%- set module, _, function = config.require('step').rpartition('.') %}
    {% call statement('main', language='python') %}
import datetime
import os
from pathlib import Path


class dbtObj:
    def __init__(self, load):
        pass


def model(dbt, connection):
    from dagster_project.lib.home import Home
    from dagster_project.lib.{{ module }} import {{ function }}

    {{ function }}(
        connection,
        home=Home(Path(os.environ["ONEFOLD_HOME"])),
        query={{ tojson(compiled_code) }},
        seq={{ var('seq') }},
        as_of=datetime.datetime.fromisoformat("{{ var('as_of') }}"),
    )


def materialize(frame, connection):
    pass
    {% endcall %}
    {% do adapter.commit() %}
    {{ run_hooks(post_hooks) }}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}

{# The same step on the engine, below dagster_project/lib/spark/; it notes what it made. #}
{% materialization python_step, adapter='spark', supported_languages=['sql'] %}
    {{ run_hooks(pre_hooks) }}
    {% do adapter.run_step(this, config.require('step'), compiled_code, var('as_of')) %}
    {% call statement('main') %}select 1{% endcall %}
    {{ run_hooks(post_hooks) }}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}
