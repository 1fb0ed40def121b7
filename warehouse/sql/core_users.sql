-- Ids of the users of the k-core, sorted.
SELECT user_id
FROM frequent_users
SEMI JOIN core_users USING (user_code)
ORDER BY user_code
