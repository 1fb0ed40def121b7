-- A few users of every domain: what they bought last and what the best model recommends, oldest and best first.
WITH best AS (
    SELECT domain, json_extract_string(summary, '$.model') AS model
    FROM lineage.artifacts
    WHERE key = 'reports/recommendations'
),
lists AS (
    FROM reports.recommendations
    SEMI JOIN best USING (domain, model)
),
user_sample AS (
    SELECT domain, user_id
    FROM lists
    WHERE rank = 1
    QUALIFY row_number() OVER (PARTITION BY domain ORDER BY md5(user_id)) <= $users
),
bought AS (
    SELECT domain, user_id, list({item_id: item_id, title: title} ORDER BY step) AS items
    FROM (
        SELECT i.domain, i.user_id, i.item_id, i.step, c.display_title AS title
        FROM core.sequences_interactions i
        JOIN user_sample USING (domain, user_id)
        JOIN core.items c USING (domain, item_id)
        QUALIFY row_number() OVER (PARTITION BY i.domain, i.user_id ORDER BY i.step DESC) <= $bought
    )
    GROUP BY ALL
),
recommended AS (
    SELECT domain, user_id, list({item_id: item_id, title: display_title} ORDER BY rank) AS items
    FROM lists
    JOIN user_sample USING (domain, user_id)
    JOIN core.items USING (domain, item_id)
    WHERE rank <= $recommended
    GROUP BY ALL
)
SELECT domain, user_id AS user, bought.items AS bought, recommended.items AS next
FROM bought
JOIN recommended USING (domain, user_id)
ORDER BY domain, user
