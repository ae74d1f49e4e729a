/* `finemesh --version`. */
#ifndef FM_JOB_VERSION_H
#define FM_JOB_VERSION_H

/* The version, then a line for each optional part: built with it or not, usable here or not, and why. Local. */
void fm_print_version(void);

#endif
