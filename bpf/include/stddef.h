/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef _STDDEF_H
#define _STDDEF_H
#define NULL ((void *)0)
#endif
