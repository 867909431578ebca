"""The walk through lineage as one SQL statement, so that it sees one state.

It steps from node to node (a version or a URL) through activities, both of whose ports the actor must see.  `near` is
the side by which a walk enters an activity, `far` the one by which it leaves.
"""

from typing import Final

# Values: ways, start node, start activity, seen, depth - 1, seen, seen, start activity, depth, seen, limit.
WALK: Final = """
    WITH RECURSIVE
    ways (near, far) AS (VALUES {ways}),
    walk (near, far, node, depth) AS (
        SELECT near, far, ?, 0 FROM ways
        UNION
        SELECT w.near, w.far, f.node, 1
        FROM ways w
        JOIN ports f ON f.activity = ? AND f.side = w.far
        JOIN activities a ON a.id = f.activity
        LEFT JOIN datasets fd ON fd.id = f.dataset
        WHERE {far}
        UNION
        SELECT w.near, w.far, f.node, w.depth + 1
        FROM walk w
        JOIN ports n ON n.node = w.node AND n.side = w.near
        JOIN ports f ON f.activity = n.activity AND f.side = w.far AND f.node <> w.node
        JOIN activities a ON a.id = n.activity
        LEFT JOIN datasets nd ON nd.id = n.dataset
        LEFT JOIN datasets fd ON fd.id = f.dataset
        WHERE w.depth < ? AND {near} AND {far}
    )
    SELECT a.id, a.started_ns FROM activities a
    WHERE a.id = ? OR a.id IN (
        SELECT n.activity FROM walk w
        JOIN ports n ON n.node = w.node AND n.side = w.near
        JOIN activities a ON a.id = n.activity
        LEFT JOIN datasets nd ON nd.id = n.dataset
        WHERE w.depth < ? AND {near}
    )
    ORDER BY a.started_ns DESC, a.id DESC LIMIT ?
"""
