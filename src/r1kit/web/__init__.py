"""The pages of ``r1kit ui``: a view of the files of runs, and of nothing else.

    run_view       the stages of a run, what state each is in, what it made      metric_rows   its metrics
    rollout_index  which rollouts there are, by stage, step, problem, reward     recipes       what differs
    curves         which curves belong together, as charts                       security      who may ask
    label_queue    what there is to label, and which pair is next
    board, rollouts, label, label_write, mathematics, server    the pages

Only the last line needs NiceGUI (extra ``ui``). Into a run's folder nothing is written but the labels that
people give: RUN/labels/STAGE.jsonl."""
