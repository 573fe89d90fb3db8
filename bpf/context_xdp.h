/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet as XDP hands it over: all that is particular to an xdp_md. */
#ifndef PERIMETERD_CONTEXT_XDP_H
#define PERIMETERD_CONTEXT_XDP_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "packet.h"
#include "settings.h"

typedef struct xdp_md context;

static __always_inline __u32 context_ifindex(context *xdp)
{
	return xdp->ingress_ifindex;
}

/* Bytes of the whole frame, of which not all need be readable. */
static __always_inline __u32 context_length(context *xdp)
{
	return settings.xdp_frames_in_parts ? bpf_xdp_get_buff_len(xdp) : xdp->data_end - xdp->data;
}

/* The same, or less where that is told faster. */
static __always_inline __u32 context_length_at_least(context *xdp)
{
	return xdp->data_end - xdp->data;
}

static __always_inline void context_frame(context *xdp, struct frame *frame, __u32 length)
{
	*frame = (struct frame){
		.data = (void *)(long)xdp->data,
		.end = (void *)(long)xdp->data_end,
		.length = length,
	};
}

static __always_inline bool context_surely_has_link_header(context *xdp)
{
	return true;
}

static __always_inline bool context_lacks_link_header(context *xdp)
{
	return false;
}

static __always_inline __u32 context_network_offset(context *xdp)
{
	return 0;
}

/* What is not at hand here is left to TC, which can make it so. */
static __always_inline bool context_more(context *xdp)
{
	return false;
}

#endif
