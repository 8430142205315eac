/* Reset of an emulated Cortex-M: FPU on, memory cleared, files of the host opened, then main. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern uint32_t __stack_top, __bss_start, __bss_end;
extern int main(int count, char **arguments);
extern void initialise_monitor_handles(void);
extern void __libc_init_array(void);
void reset(void);
void _init(void);
void _fini(void);
void on_tick(void);

#define CPACR (*(volatile uint32_t *)0xE000ED88u)

volatile uint32_t stdet_wraps;

void _init(void)
{
}

void _fini(void)
{
}

void on_tick(void)
{
    stdet_wraps++;
}

static void on_fault(void)
{
    exit(99);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))&__stack_top, reset,    on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, 0, 0, 0,
    on_fault,                     on_fault, 0,        on_fault, on_tick,
};

void reset(void)
{
    CPACR |= 0xFu << 20;
    __asm volatile("dsb\n isb");
    (void)memset(&__bss_start, 0, (size_t)((char *)&__bss_end - (char *)&__bss_start));
    initialise_monitor_handles();
    __libc_init_array();
    exit(main(0, 0)); /* there is no command line */
}
