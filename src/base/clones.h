/* FM_CLONES compiles a function for several instruction sets, one of which is chosen when the program starts. Such a function must not
 * contain OpenMP regions: an outlined region would lose the instruction set. */
#ifndef FM_BASE_CLONES_H
#define FM_BASE_CLONES_H

#if defined(FM_TARGET_CLONES)
#define FM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FM_CLONES
#endif

#endif
