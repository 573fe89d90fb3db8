/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is fixed when the programs are loaded. Written by the agent into the
 * object's read-only data before the verifier sees it, so that what is switched
 * off costs nothing and no packet looks a setting up.
 */
#ifndef PERIMETERD_SETTINGS_H
#define PERIMETERD_SETTINGS_H

#include <linux/types.h>

#include "types.h"

/* Rows of the timeout table. */
enum timeout_row {
	TIMEOUT_TCP,
	TIMEOUT_UDP,
	TIMEOUT_ICMP,
	TIMEOUT_OTHER,
	TIMEOUT_ROW_COUNT,
};

struct load_settings {
	/* How long a flow may be idle, in jiffies, by kind and state. */
	__u32 timeouts[TIMEOUT_ROW_COUNT][FLOW_STATE_COUNT];
	/* How long a first fragment's verdict counts, in jiffies. */
	__u32 fragment_timeout;
	/* Bytes waiting in a ring at which its reader is woken. */
	__u32 wake_at;
	/* Tells this data path from others on the machine; not 0. */
	__u64 instance;
	/* 1: the kernel may hand frames to XDP of which only the beginning is readable (Linux 5.18). */
	__u32 xdp_frames_in_parts;
	/* 1: questions to port 53 and answers go through the programs of dns.bpf.c. */
	__u32 names;
	/* 1: a member with names may ask for these only. */
	__u32 dns_strict;
	/* 1: answers are believed of those in `resolvers` only. */
	__u32 resolvers_listed;
	/* How long an address is open at least and at most, and beyond what its answer says, in jiffies. */
	__u32 name_floor;
	__u32 name_ceiling;
	__u32 name_slack;
	/* Jiffies in a second. */
	__u32 ticks;
	/* 1: frames are of a capture, and `replayed` says when and how long they were. */
	__u32 replay;
};

volatile const struct load_settings settings;

/* Packets of the opener after which a flow without a handshake is taken for one that goes on. */
#define ONE_WAY_PACKETS 4

/* How far ahead of all before it a TCP segment of the peer is believed: more than buffers let a sender go. */
#define TCP_WINDOW_MAX (1 << 24)

/* How far ahead a FIN is believed: it may overtake data. */
#define TCP_OVERTAKING_MAX (1 << 16)

/* How far headers are walked; what is deeper cannot be judged. */
#define VLAN_TAGS_MAX 4
#define IPV6_HEADERS_MAX 8
#define HEADER_BYTES_MAX 512

/* How many wider classes are asked when one means nothing of its own to a scope. */
#define PARENTS_MAX 8

/* How many rules with names are asked about one port of one member, and how many sets one name may open. */
#define NAME_RULES_MAX 64
#define NAME_SETS_MAX 64

/* What is read of a DNS message in the data path; all else is left to the agent. */
#define DNS_MESSAGE_MAX 4096
#define DNS_RECORDS_MAX 256
#define DNS_POINTERS_MAX 16
#define DNS_ALIASES_MAX 16

/* How long an answer to a question is waited for, in seconds. */
#define DNS_PATIENCE 30

/* How many expired rules in a row are stepped over for one packet. */
#define EXPIRED_MAX 16

#endif
