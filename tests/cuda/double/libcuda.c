/* The driver's library of the double: that it can be opened is all that is asked of it. */
int cuInit(unsigned int flags);

int cuInit(unsigned int flags)
{
    return flags == 0 ? 0 : 1;
}
