/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Headers as they are on the wire, without bit fields. All multi-byte fields
 * are in network byte order and say so in their names.
 */
#ifndef PERIMETERD_HEADERS_H
#define PERIMETERD_HEADERS_H

#include <linux/types.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8

struct ethernet_header {
	__u8 destination[6];
	__u8 source[6];
	__be16 type_be;
};

struct vlan_header {
	__be16 tag_be;
	__be16 type_be;
};

struct ipv4_header {
	__u8 version_length;	/* version << 4 | header length in words */
	__u8 service;
	__be16 total_length_be;
	__be16 id_be;
	__be16 fragment_be;	/* flags and offset in units of 8 bytes */
	__u8 ttl;
	__u8 protocol;
	__be16 checksum_be;
	__be32 source_be;
	__be32 destination_be;
};

#define IPV4_OPTIONS_MAX 40	/* bytes */
#define IPV4_LOOSE_ROUTE 131	/* options */
#define IPV4_STRICT_ROUTE 137

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff

struct ipv6_header {
	__u8 version_class;	/* version << 4 | high half of the traffic class */
	__u8 class_flow[3];
	__be16 payload_length_be;
	__u8 next_header;
	__u8 hop_limit;
	__be32 source_be[4];
	__be32 destination_be[4];
};

struct ipv6_extension {
	__u8 next_header;
	__u8 length;		/* units of 8 bytes less 1; AH: units of 4 bytes less 2 */
	__u8 kind;		/* routing header only, as is the next */
	__u8 segments_left;
};

struct ipv6_fragment {
	__u8 next_header;
	__u8 reserved;
	__be16 fragment_be;	/* offset in units of 8 bytes << 3 | more */
	__be32 id_be;
};

#define IPV6_MORE_FRAGMENTS 0x0001

struct tcp_header {
	__be16 source_be;
	__be16 destination_be;
	__be32 sequence_be;
	__be32 acknowledgement_be;
	__u8 offset;		/* header length in words << 4 */
	__u8 flags;
	__be16 window_be;
	__be16 checksum_be;
	__be16 urgent_be;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* What TCP, UDP, UDP-Lite, SCTP and DCCP begin with. */
struct ports_header {
	__be16 source_be;
	__be16 destination_be;
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum_be;
	__be16 id_be;		/* echo only */
	__be16 sequence_be;
};

/* IANA protocol numbers. */
enum {
	PROTOCOL_HOP_BY_HOP = 0,
	PROTOCOL_ICMP = 1,
	PROTOCOL_IGMP = 2,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_DCCP = 33,
	PROTOCOL_ROUTING = 43,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_AH = 51,
	PROTOCOL_ICMPV6 = 58,
	PROTOCOL_NO_NEXT = 59,
	PROTOCOL_DESTINATION = 60,
	PROTOCOL_SCTP = 132,
	PROTOCOL_UDPLITE = 136,
};

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_QUENCH 4
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12

#define ICMPV6_ERROR_FIRST 1
#define ICMPV6_ERROR_LAST 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_MLD_FIRST 130
#define ICMPV6_MLD_LAST 132
#define ICMPV6_ND_FIRST 133	/* router solicitation */
#define ICMPV6_ND_LAST 137	/* redirect */
#define ICMPV6_MLD2_REPORT 143

#endif
