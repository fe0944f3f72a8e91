{# Materialisation of identity.assignments: the model's SQL gives the candidate graph, the solver keeps ids stable.

   Assignments are state: they are changed where the graph changed and never rebuilt from nothing, whatever the flags. #}
{% materialization identity_clusters, adapter='duckdb', supported_languages=['sql'] %}
    {{ run_hooks(pre_hooks) }}
    {% call statement('main', language='python') %}
import datetime
import os
from pathlib import Path


class dbtObj:
    def __init__(self, load):
        pass


def model(dbt, connection):
    from dagster_project.lib.home import Home
    from dagster_project.lib.identity.resolve import resolve

    resolve(
        connection,
        graph={{ tojson(compiled_code) }},
        seq={{ var('seq') }},
        as_of=datetime.datetime.fromisoformat("{{ var('as_of') }}"),
        key=Home(Path(os.environ["ONEFOLD_HOME"])).key,
    )


def materialize(frame, connection):
    pass
    {% endcall %}
    {% do adapter.commit() %}
    {{ run_hooks(post_hooks) }}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}
