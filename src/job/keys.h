/* The table of job keys: section, name, type, default, limits, help, place in fm_job, and what of it is there yet. Everything
 * that is said about keys (errors, help, the effective job, the settings table) comes from here. All functions are local. */
#ifndef FM_JOB_KEYS_H
#define FM_JOB_KEYS_H

#include "base/text.h"
#include "job/job.h"

enum fm_key_type {
    FM_KEY_BOOL,                       /* bool */
    FM_KEY_INT,                        /* int */
    FM_KEY_INT64,                      /* int64_t */
    FM_KEY_NUMBER,                     /* double */
    FM_KEY_CHOICE,                     /* an enum: one of `choices` */
    FM_KEY_TEXT,                       /* char * */
    FM_KEY_PATH,                       /* char *: made absolute, but for the words in `choices` */
    FM_KEY_PATHS                       /* char *: comma separated, each made absolute */
};

/* A word and the enumerator it stands for; a list of them ends with a NULL word. */
typedef struct {
    const char *word;
    int value;
} fm_choice;

typedef struct {
    const char *section, *name;
    enum fm_key_type type;
    size_t offset;                     /* of the value in fm_job */
    const char *fallback;              /* the default as it would be written; "": not given (0, "" or filled in later) */
    double low, high;                  /* FM_KEY_INT, _INT64, _NUMBER: low <= value <= high */
    bool below_high;                   /* value < high */
    bool above_low;                    /* value > low */
    const fm_choice *choices;
    const char *available;             /* the values that work in this version, separated by blanks; NULL: all */
    const char *help;
} fm_key;

int fm_key_count(void);
const fm_key *fm_key_get(int index);

/* Index of a key, -1 where there is none. Names without regard to case. */
int fm_key_find(const char *section, const char *name);
bool fm_key_has_section(const char *section);

/* The known key that is nearest to a mistyped one: the same name in another section, else the least edit distance. */
int fm_key_nearest(const char *section, const char *name);
const char *fm_key_nearest_section(const char *section);

/* Reads `value` ("" is the default) into its place in the job. Local paths stay relative. FM_OK, or FM_ERR_JOB and *expected says
 * what was expected, or FM_ERR_MEMORY. */
int fm_key_parse(fm_job *job, const fm_key *key, const char *value, fm_text *expected);

/* The value in the job as it would be written. */
void fm_key_print(fm_text *out, const fm_job *job, const fm_key *key);

/* The value's place. Strings are char *. */
char **fm_key_string(fm_job *job, const fm_key *key);

/* Whether a written value works in this version. */
bool fm_key_is_available(const fm_key *key, const char *value);

/* "an integer from 1 on", "one of no, full, selective" ... */
void fm_key_print_expected(fm_text *out, const fm_key *key);

/* `finemesh run --help-keys`: the table on stdout, from the speaker. */
void fm_keys_print_help(void);

#endif
