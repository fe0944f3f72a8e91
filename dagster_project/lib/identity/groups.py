"""Wider groups of profiles, from pairs that are likely and not certain."""

import duckdb
import numpy as np

from dagster_project.lib.identity.components import connected_components
from dagster_project.lib.identity.rules import Matching

LARGEST = 2_000  # profiles


def group(connection: duckdb.DuckDBPyConnection, pairs: str, matching: Matching, grade: str, groups: str) -> int:
    """Write who is one person at a grade, a row (`profile_id`, `group_id`) for each profile that is not alone; how many groups.

    A chain of likely pairs need not be one person: A and B, B and C may be likely and A and C impossible. So within each
    connected component, groups are joined from the likeliest on, as long as their members are on average more likely one
    person than not (average linkage; a pair that was not kept counts as impossible, and so does a contradicted one below
    advertising). `group_id` is the smallest profile id.
    """
    rows = connection.execute(f"{weighed(pairs, matching, grade)} order by 1, 2").fetchnumpy()
    names, ends = np.unique(np.concatenate([rows["left_id"], rows["right_id"]]).astype(str), return_inverse=True)
    left, right = ends[: len(ends) // 2], ends[len(ends) // 2 :]
    wanted_rows = rows["is_wanted"].astype(bool)
    component = connected_components(len(names), left[wanted_rows], right[wanted_rows])
    labels = linked(component, left, right, np.asarray(rows["likely"], dtype=float))
    connection.execute(
        "create or replace temp table _labels as select unnest($1::varchar[]) as profile_id, unnest($2::bigint[]) as label",
        [names.tolist(), labels.tolist()],
    )
    connection.execute(
        f"create or replace table {groups} as "
        "select profile_id, min(profile_id) over (partition by label) as group_id from _labels "
        "qualify count(*) over (partition by label) > 1"
    )
    connection.execute("drop table _labels")
    return connection.execute(f"select count(distinct group_id) from {groups}").fetchone()[0]


def weighed(pairs: str, matching: Matching, grade: str) -> str:
    """SELECT of pairs with how likely each counts at a grade, and whether it is wanted: likely enough to join components."""
    grades = list(matching.thresholds)
    wanted = ", ".join(f"'{name}'" for name in grades[: grades.index(grade) + 1])
    kept = (
        "match_probability" if grade == "advertising" else "case when contradiction is null then match_probability else 0 end"
    )
    return f"select left_id, right_id, {kept} as likely, grade in ({wanted}) as is_wanted from {pairs}"


def linked(component: np.ndarray, left: np.ndarray, right: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """Groups by average linkage within components.

    Args:
        component: of each member its component, from 0 on.
        left, right: the members of each pair.
        likely: the probability of each pair.

    Returns:
        Of each member the number of its group. Members of one component are looked at in their order.
    """
    from scipy.cluster.hierarchy import average, fcluster
    from scipy.spatial.distance import squareform

    labels = component.astype(np.int64)
    inside = component[left] == component[right]
    order = np.argsort(component[left[inside]], kind="stable")
    left, right, likely = left[inside][order], right[inside][order], likely[inside][order]
    sizes = np.bincount(component)
    members = np.split(np.argsort(component, kind="stable"), np.cumsum(sizes)[:-1])
    starts = np.searchsorted(component[left], np.arange(len(sizes) + 1))
    following = len(sizes)
    for number in np.flatnonzero(sizes > 2):
        if sizes[number] > LARGEST:  # nobody has so many profiles: none of its pairs is to be trusted
            labels[members[number]] = following + np.arange(sizes[number])
            following += sizes[number]
            continue
        edges = slice(starts[number], starts[number + 1])
        far = np.ones((sizes[number], sizes[number]))
        at, to = np.searchsorted(members[number], left[edges]), np.searchsorted(members[number], right[edges])
        far[at, to] = far[to, at] = 1 - likely[edges]
        np.fill_diagonal(far, 0)
        found = fcluster(average(squareform(far)), 0.5, criterion="distance")
        labels[members[number]] = following + found
        following += found.max() + 1
    return labels
