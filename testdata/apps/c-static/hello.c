/* Says hello from an image that holds nothing else. */
#include <stdio.h>

int main(void)
{
    return puts("Hello from scratch.") < 0;
}
