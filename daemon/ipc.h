/* ipc.h - the protocol between control (`qlorad serve`) and engine (`qlorad engine`).  Owner of the format.
 *
 * Transport: a UNIX stream socketpair, descriptor 3 of the engine; descriptor 4 is the state directory.  A frame is a
 * u32 little-endian length (1 … QL_FRAME_MAX) and one JSON object of that many bytes, with "type".  Both sides check
 * every field; an unknown type, a bad length or bad JSON ends the peer.  Paths are names below the state directory
 * ("files/file-x", "jobs/ftjob-x", "adapters/ftjob-x"); only init.base (from the operator) is a real path.
 *
 * control → engine
 *  init       {v:1, base, device:"auto|cpu|cuda[:n]", threads:int (0 = all), cache:"cache", max_batch_rows, kv_tokens:int (0 = auto),
 *              max_context:int (0 = the model's), inter_token_target_ms, snapshot_seconds}      always first
 *  validate   {job, attempt, training_file:"files/…", validation_file:null|"files/…", recipe}
 *  start      {job, attempt, training_file, validation_file, recipe (all resolved), dir:"jobs/ID", publish:"adapters/ID",
 *              resume:null|"step-N", adapter_from:null|dir (continued training: weights taken over)}
 *  stop       {job, attempt, mode:"pause|cancel|drain"}   pause, drain: snapshot first; cancel: at once
 *  infer      {id:int, kind:"chat|completion|tokenize|detokenize|template", adapter:null|{name, dir, generation}, …as the API's body after
 *              checking, see "inference" below}
 *              kind "preview": {file:"files/…", lines:1..100, recipe (what decides masks)}, answered by infer_result {kind, has_more,
 *              examples} (core/text/data/dataset.h)
 *              kind "import": {file:"files/…" (PEFT directory as tar, or GGUF LoRA), dir:"adapters/…"}, answered by infer_result
 *              {manifest_sha256, bytes, shape:{rank, alpha, use_rslora, target_modules, rank_pattern, alpha_pattern}} or infer_error
 *  infer_cancel {id}
 *  adapter_drop {name}                        forget a cached adapter
 *  export     {id:"export-…", format, quantization, merge_base:"dequantized|original", adapter:null|{name,dir,generation},
 *              dir:"exports/ID", base_name, name}
 *  export_cancel {id}
 *  ping       {n}
 *  drain      {}                              finish what runs (jobs get stop/drain), then the engine exits 0
 *
 * engine → control
 *  loading    {progress:0..1, message}
 *  ready      {model:{name, family, parameters, layers, hidden_size, context, vocab_size, has_template:bool, quantization:{type,
 *              block_size, double_quant}, base_sha256, tokenizer_sha256, template_sha256}, device, build, memory:{kind:bytes…}}
 *  fatal      {code:int, message}             the last frame before exit; exit code 64 = bad configuration, 70 = device, 71 = no device
 *  pong       {n}
 *  status     {memory:{base,kv,adapter,optimizer,activation,scratch,available}, running, waiting, tokens_per_second, kv_usage:0..1,
 *              counters:{prompt_tokens, generation_tokens, cached_tokens, trained_tokens, padding_tokens, busy_train_s, busy_infer_s,
 *              turn_tokens, adapters_in, adapters_out}, turns:[int × 17], adapters:[{name, running:bool}…], wanted:[name…]}  each second.
 *              turns: device turns so far with at most 1, 2, 5, 10, … 100,000 tokens, or more; adapters: on the device; wanted: waited for
 *  validated  {job, attempt, ok:bool, code, message, param, faults:[{line, reason}], dataset:{kind, examples, dropped, truncated, tokens,
 *              target_tokens, max_tokens, sha256}, validation:null|{same}, estimate:{memory_bytes}}
 *  started    {job, attempt, step, total_steps, tokens_per_epoch, exact_resume:bool, device, recipe:{micro_batch_size,
 *              gradient_accumulation_steps, warmup_steps, logging_steps}, plan:{micro_batch_tokens, layers:{keep_all, keep_main, recomputed,
 *              offloaded, dense}, bytes:{adapter_and_optimizer, activations, dense_weights, total, on_host}, available_bytes}}
 *  step       {job, attempt, step, total_steps, epoch:real, metrics:{train_loss, train_mean_token_accuracy, learning_rate, grad_norm, tokens,
 *              target_tokens, valid_loss?, valid_mean_token_accuracy?, full_valid_loss?, full_valid_mean_token_accuracy?},
 *              seconds, tokens_per_second, eta_seconds, log:bool}           one for each optimiser step, in order
 *  phase      {job, attempt, phase:"loading|training|evaluating|checkpointing|publishing"}
 *  checkpoint {job, attempt, step, dir:"step-N", manifest_sha256, bytes, kind:"user|snapshot", metrics}  durable when sent
 *  stopped    {job, attempt, step, mode}       after the snapshot, if any, was sent
 *  done       {job, attempt, step, trained_tokens, early:bool (stopped by early_stopping_patience), dir:"adapters/ID", manifest_sha256, bytes, csv:"jobs/ID/step_metrics.csv"}  all durable
 *  failed     {job, attempt, step, code, message, param, checkpoint?:"step-N"}   code as in api.md 5.5; checkpoint: the one named in
 *              start.resume does not read back (it is damaged, not one of another base or recipe): the one before it is to be tried
 *  delta      {id, index, text, tokens:int, logprobs:null|[{token, logprob, bytes, top:[{token, logprob, bytes}]}]}  text: whole characters
 *  finish     {id, index, reason:"stop|length"}              one for each choice
 *  infer_done {id, prompt_tokens, completion_tokens, cached_tokens, queue_seconds?, prefill_seconds?, ignored?}   closes the request
 *  infer_error {id, code (enum ql_code), error_code (api.md §3 word), param, message}   closes the request
 *  infer_result {id, result:{…}}               answers tokenize, detokenize, template; closes the request
 *  export_progress {id, progress}
 *  export_done {id, files:[{name, bytes, sha256}], verification:null|{base_difference:{relative_rms, max_abs, tensors}}}
 *  export_failed {id, code, message}
 *
 * inference: chat {messages, tools?, chat_template_kwargs?, add_generation_prompt, continue_final_message}; completion {prompts:[string or
 *  [int]…], parse_special, echo}; both: {n, max_tokens:null|int, temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty,
 *  repetition_penalty, seed:null|int, stop:[string…], stop_token_ids:[int…], ignore_eos, min_tokens, logit_bias:{id:num}, logprobs:int (-1 = none,
 *  else number of alternatives)}.  index = prompt·n + i.  tokenize {prompt | messages…, add_special, parse_special, pieces}; result {tokens, pieces?
 *  (each a string, or the list of its bytes where they are no UTF-8 alone), max_model_len}.  detokenize {tokens}; result {text}.  template {messages…}; result {text}.
 *
 * recipe: the names and meanings of api.md 5.3 plus {n_epochs, batch_size, learning_rate, seed}; in validate, n_epochs and batch_size may
 *  still be "auto" and learning_rate null.
 *
 * Order: frames of one job arrive in the order of events.  `step`, `checkpoint`, `done` … of an attempt older than the job's are dropped by control.
 */
#ifndef QL_DAEMON_IPC_H
#define QL_DAEMON_IPC_H

#define QL_IPC_VERSION 1
#define QL_IPC_FD 3
#define QL_IPC_STATE_FD 4

#define QL_EXIT_CONFIG 64
#define QL_EXIT_DEVICE 70
#define QL_EXIT_NO_DEVICE 71

#endif
