/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet as the hook hands it over. An object is compiled for one hook; all
 * but its context is the same for both.
 */
#ifndef PERIMETERD_CONTEXT_H
#define PERIMETERD_CONTEXT_H

#ifdef HOOK_XDP
#include "context_xdp.h"
#else
#include "context_skb.h"
#endif

#endif
