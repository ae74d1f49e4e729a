/* finemesh tokenize: text to ids and back, a JSON object a line, so that people can see what a model is fed. */
#ifndef FM_JOB_CMD_TOKENIZE_H
#define FM_JOB_CMD_TOKENIZE_H

#include <stdio.h>

#include "finemesh/tokenizer.h"

/* Reads lines {"text": ...} from `in` and writes {"input_ids": [...]} to `out`, one a line; `decodes`: the other way round. Blank
 * lines stay blank. `name` stands for the input in errors. Local. Errors name the line. */
int fm_tokenize_stream(FILE *out, FILE *in, const fm_tokenizer *tokenizer, bool decodes, const char *name);

/* `finemesh tokenize MODEL [--decode]`: argv[0] is the model directory. Standard input to standard output. Local. */
int fm_cmd_tokenize(int argc, char **argv);

#endif
