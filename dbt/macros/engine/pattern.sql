{# A regular expression as a literal that means the same to RE2 and to Java, whose `.` and `$` know more ends of lines than RE2's, whose
   `$` also stands before the last of them, and whose (?i) without (?u) is for ASCII alone.

   Args: text: the expression, with backslashes and quotes as they are. #}
{% macro pattern(text) -%}{{ return(adapter.dispatch('pattern')(text)) }}{%- endmacro %}

{% macro duckdb__pattern(text) -%}'{{ text | replace("'", "''") }}'{%- endmacro %}

{% macro spark__pattern(text) -%}
    {%- set other = modules.re.search('(?<!\\\\)\\[\\^?\\]?[^\\]\\[]*\\[|&&|\\\\[bBpPsSv]', text) -%}
    {%- if other -%}
        {{ exceptions.raise_compiler_error("the pattern " ~ text ~ " means something else in Java at " ~ other.group()
            ~ "; write classes out, such as [ \\t]") }}
    {%- endif -%}
    {#- \z is the end of the text, which a $ outside of a class stands for. -#}
    {%- set text = modules.re.sub('(?<!\\\\)[$](?![^\\[]*\\])', '\\\\z', text) -%}
    '(?du){{ text | replace('\\', '\\\\') | replace("'", "''") }}'
{%- endmacro %}
