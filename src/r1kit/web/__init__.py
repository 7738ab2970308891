"""The pages of ``r1kit ui``: a view of the files of runs, and of nothing else.

    run_view       the stages of a run, what state each is in, what it made      metric_rows   its metrics
    rollout_index  which rollouts there are, by stage, step, problem, reward     recipes       what differs
    curves         which curves belong together, as charts                       security      who may ask
    talk_models    the models of a run, loaded and bounded in number     talk_answers  an answer as it comes
    talk_problems  problems of the run's tasks, and the verdict          talk_share    a conversation as file
    label_queue    what there is to label, and which pair is next
    board, rollouts, label, label_write, talk, mathematics, server    the pages

Only the last line needs NiceGUI (extra ``ui``), and only talk needs PyTorch. Into a run's folder nothing is
written but the labels that people give: RUN/labels/STAGE.jsonl."""
