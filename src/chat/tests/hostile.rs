//! Templates that mean harm: an error in time, whatever they do.

use super::*;
use std::time::{Duration, Instant};

/// Under which an error must come; a busy machine is given more.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

pub fn run(source: &str) -> std::result::Result<String, String> {
    let render = |template: Template| template.render(&messages(&[("user", "hi")]), true);
    Template::new(source, "", "").and_then(render).map_err(|error| error.to_string())
}

/// Runs a template that must fail, in time. Memory is bounded by the same fuel; the stack by the source's length.
fn refused(source: &str) -> String {
    let start = Instant::now();
    let error = run(source).expect_err(&source[..source.len().min(200)]);
    let time = start.elapsed();
    assert!(time < LIMIT, "{time:?}: {}", &source[..source.len().min(200)]);
    error
}

#[test]
fn huge_loops_run_out_of_fuel() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ range(100000) | map('string') | join(range(100000) | join) }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ns.x + [1] %}{% endfor %}",
    ] {
        let error = refused(source);
        assert!(error.contains("fuel"), "{error}");
    }
    assert!(refused("{% for i in range(1000000000) %}{% endfor %}").contains("range"));
}

#[test]
fn huge_strings_are_never_made() {
    let long = "{% set x = 'a' * 1000000 %}";
    for source in [
        "{{ 'a' * 1000000000 }}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}\
         {% set ns.x = y %}{% endfor %}"
            .into(),
        format!("{long}{{{{ range(100000) | join(x) }}}}"),
        format!("{long}{{{{ x.join(range(100000)) }}}}"),
        format!("{long}{{{{ x.replace('a', x) }}}}"),
        format!("{long}{{{{ x | replace('a', x) }}}}"),
        "{{ [1] | tojson(indent=4000000000) }}".into(),
        "{{ 'a\nb' | indent(4000000000) }}".into(),
        "{{ '{:>1000000000}'.format('a') }}".into(),
        "{{ ([1] * 1000000000) | length }}".into(),
    ] {
        refused(&source);
    }
}

#[test]
fn output_is_limited() {
    let error = refused("{% set x = 'a' * 100000 %}{% for i in range(11) %}{{ x }}{% endfor %}");
    assert!(error.contains("exceeds 1049"), "{error}");
    let long = "a".repeat(3 << 20);
    let text = smollm2().render(&messages(&[("user", &long)]), true).unwrap();
    assert!(text.len() > long.len(), "a long message is no reason to refuse");
}

/// Forty lists that each hold the one before twice would be written, or met, as 2⁴⁰ items; `x` and `y` are two such.
const SHARED: &str = "{% set ns = namespace(x=[1], y=[1], z=[1]) %}\
    {% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}\
    {% set x = ns.x %}{% set y = ns.y %}";

#[test]
fn shared_lists_are_weighed_before_they_are_looked_into() {
    for write in [
        "{{ x }}",
        "{% set z = x | string %}",
        "{% set z = x | tojson %}",
        "{% set z = {'a': x} | tojson %}",
        "{% set z = [x] | join %}",
        "{% set z = ''.join([x]) %}",
        "{% set z = '{}'.format(x) %}",
        "{% set z = [x].count(x) %}",
        "{% set z = x ~ '' %}",
        "{% set z = '' ~ x %}",
        "{% if x == y %}{% endif %}",
        "{% if x != y %}{% endif %}",
        "{% if x < y %}{% endif %}",
        "{% if x is eq y %}{% endif %}",
        "{% if x is sameas y %}{% endif %}",
        "{% if x in [y] %}{% endif %}",
        "{% if x not in [y] %}{% endif %}",
        "{% if x is in [y] %}{% endif %}",
        "{% set z = [x, y] | sort %}",
        "{% set z = [x, y] | min %}",
        "{% set z = [x, y] | select('eq', x) | list %}",
        "{% set z = [{'a': x}] | selectattr('a', 'equalto', y) | list %}",
        "{% set z = [x, y] | map('upper') | list %}",
        "{% set z = x | upper %}",
        "{% set z = x | trim %}",
        "{% set z = 'a' | replace('a', x) %}",
        "{% set z = {'a': x, 'b': y} | dictsort(by='value') %}",
    ] {
        let error = refused(&format!("{SHARED}{write}"));
        assert!(error.contains("too large to be written"), "{write}: {error}");
    }
    for (key, cause) in [
        ("{% set z = {x: 1} %}", "no key"),
        ("{% set z = {}[x] %}", "no key"),
        ("{% if x in {} %}{% endif %}", "no key"),
        ("{% if x in 'a' %}{% endif %}", "not in a string"),
        ("{{ debug() }}", "unknown"),
        ("{{ raise_exception(x) }}", "too large"),
    ] {
        let error = refused(&format!("{SHARED}{key}"));
        assert!(error.contains(cause), "{key}: {error}");
    }
    for (source, cause) in [
        ("{% for i in [1] %}{{ loop.changed(i) }}{% endfor %}", "loop.changed is not supported"),
        ("{% set x = 1 %}{{ 0 < x < 3 }}", "a chain of comparisons is not supported"),
    ] {
        assert!(run(source).unwrap_err().contains(cause));
    }
}

#[test]
fn values_that_hold_themselves_are_refused() {
    let cycles = "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = a %}{% set b.x = b %}";
    for look in
        ["{% if a == b %}{% endif %}", "{{ a ~ '' }}", "{{ a }}", "{{ a | tojson }}", "{% if a in [b] %}{% endif %}"]
    {
        assert!(refused(&format!("{cycles}{look}")).contains("too large"));
    }
}

/// Repeating a list makes no list until it is looked into; constants would be looked into by the compiler.
#[test]
fn repeated_lists_are_never_met_item_by_item() {
    for source in [
        "{{ [1] * 1000000000 == [1] * 1000000000 }}",
        "{{ ([1] * 1000000000) == ([1] * 1000000000) }}",
        "{{ 2 in [1] * 1000000000 }}",
        "{% set x = [1] * 1000000000 %}{{ 2 in x }}",
        "{% set x = [1] * 1000000000 %}{% for i in x %}{% endfor %}",
        "{% set x = ['a' * 1000] * 100000 %}{{ x }}",
        "{% set x = ['a' * 1000] * 100000 %}{{ x | join }}",
        "{% set x = ['a' * 1000] * 100000 %}{{ x | tojson }}",
        "{% set x = ['a' * 1000] * 100000 %}{% set y = x ~ x %}",
        "{% set x = [['a' * 1000] * 1000] * 1000 %}{% set y = ''.join(x) %}",
    ] {
        refused(source);
    }
}

/// Lists that grow by doubling, or by one in a long loop.
#[test]
fn long_sums_of_lists_are_paid_for() {
    let double = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    for look in [
        "{{ ns.x | length }}",
        "{{ ns.x[5] }}",
        "{{ ns.x[-1] }}",
        "{{ 2 in ns.x }}",
        "{{ ns.x[:3] }}",
        "{{ ns.x | last }}",
    ] {
        let start = Instant::now();

        let _ = run(&format!("{double}{look}"));
        assert!(start.elapsed() < LIMIT, "{look}: {:?}", start.elapsed());
    }
    let grow = "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ns.x + [i] %}";
    for each in ["", "{{ ns.x[0] }}", "{{ ns.x | length }}", "{% if i in ns.x %}{% endif %}"] {
        assert!(refused(&format!("{grow}{each}{{% endfor %}}")).contains("fuel"), "{each}");
    }
}

/// What is nested deeply is also let go of deeply: the stack grows with what a long conversation pays for.
#[test]
fn deep_values_do_not_overflow_the_stack() {
    let long = "a".repeat(4 << 20);
    for nest in ["[ns.x]", "{'x': ns.x}", "(ns.x,)", "namespace(x=ns.x)"] {
        let source = format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(100000) %}}{{% for j in range(9) %}}\
             {{% set ns.x = {nest} %}}{{% endfor %}}{{% endfor %}}"
        );
        let template = Template::new(&source, "", "").unwrap();
        let error = template.render(&messages(&[("user", &long)]), true).unwrap_err().to_string();
        assert!(error.contains("fuel"), "{nest}: {error}");
    }
}

#[test]
fn recursion_is_limited() {
    for source in [
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
    ] {
        refused(source);
    }
}

/// Sources nested as deeply as their length allows: an error or a text, and never a stack overflow.
#[test]
fn deep_sources_do_not_overflow_the_stack() {
    let fill = |unit: &str| unit.repeat((SOURCE_BYTES_MAX - 100) / unit.len());
    for (before, unit, after) in [
        ("{{ ", "(", "1 }}"),
        ("{{ ", "[", "1 }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ messages", ".a", " }}"),
        ("{{ messages", "[0]", " }}"),
        ("{{ messages", "()", " }}"),
        ("{{ 'x'", "|upper", " }}"),
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "~1", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", "<1", " }}"),
        ("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        ("", "{% if 1 %}", ""),
        ("", "{% for x in y %}", ""),
        ("", "{{", ""),
    ] {
        // One tag of all the source's length, and as many tags as fit of the length that is let through.
        let tag = format!("{before}{}{after}", unit.repeat(240));
        for source in [format!("{before}{}{after}", fill(unit)), tag.repeat(SOURCE_BYTES_MAX / tag.len())] {
            let start = Instant::now();
            let _ = run(&source);
            let time = start.elapsed();
            assert!(time < LIMIT, "{unit:?}: {time:?}");
        }
    }
    assert_eq!(run(&format!("{{{{ 1{} }}}}", "+1".repeat(490))).unwrap(), "491");
    assert!(refused(&" ".repeat(SOURCE_BYTES_MAX + 1)).contains("131073 bytes"));
}
