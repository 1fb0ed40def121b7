COMMENT ON $kind $name IS $comment
