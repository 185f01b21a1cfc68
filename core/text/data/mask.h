/* mask.h - which tokens are trained.
 *
 *   text                every token but the first; EOS is appended unless the text ends with it or was truncated
 *   prompt/completion   the completion's tokens (one that began in the prompt included) and the EOS appended to it
 *   chat                per assistant message with weight 1: its content and its end-of-turn token.  Role headers and
 *                       template text after the end token (ChatML's newline) are masked
 *
 * Where an assistant message lies in the rendered text is found, in this order:
 *   1. {% generation %} blocks, when the template has them.  With as many blocks as assistant messages, weights apply block
 *      by block; with another number, weights of 0 cannot be honoured and the line is refused.
 *   2. By rendering prefixes: A = messages before it with the generation prompt, B = messages up to it.  If A is a prefix of B
 *      and B of the whole, the message is B without A.
 *   3. When some message fails rule 2 (templates that rewrite history, for instance drop earlier reasoning), only the last
 *      assistant message is trained; if that one fails too, or has weight 0, the line is refused.
 * A token belongs to a range iff it covers a byte of it, as in transformers' assistant masks and TRL; a special token that began
 * before the range (and swallowed blanks of it) does not.  Of a range found by rule 2 or 3, the tokens after its last stop token
 * (ql_tok_is_stop) are masked.  A stop token right behind a {% generation %} block belongs to it: an answer always trains its end.
 * Nothing is ever found by searching for a marker's text. */
#ifndef QL_DATA_MASK_H
#define QL_DATA_MASK_H
#endif
