package decisionlog

import (
	"fmt"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
)

func TestRecordsAllocateNothing(t *testing.T) {
	b := testBuilder()
	events := testEvents()
	var r Record
	buffer := make([]byte, 0, 1<<16)
	encode := func() {
		b.refresh()
		buffer = buffer[:0]
		for i := range events {
			b.fill(&r, &events[i].event)
			buffer = r.AppendJSON(buffer)
			buffer = r.AppendFlat(buffer)
		}
	}
	encode()
	// A number in place of an interface's name is made once a batch.
	if n := testing.AllocsPerRun(100, encode); n > 1 {
		t.Errorf("%d events allocate %v times", len(events), n)
	}
}

func TestLegendIsAskedOnceABatch(t *testing.T) {
	asked := make(map[uint32]int)
	known := testLegend()
	var legend *compile.Legend // not known yet
	b := newBuilder(func(generation uint32) *compile.Legend {
		asked[generation]++
		return legend
	}, nil)
	e := decision(datapath.FlowStart, ordersDB, 1)
	var r Record
	for range 3 {
		b.fill(&r, &e)
	}
	if asked[testGeneration] != 1 || r.Properties.Perimeterd.Member != ordersDB {
		t.Errorf("asked %d times, record %+v; want 1 and the member's number", asked[testGeneration], r)
	}

	legend = known
	b.refresh()
	for range 3 {
		b.fill(&r, &e)
	}
	if asked[testGeneration] != 2 || r.Properties.Perimeterd.Member != 0 || r.Properties.Profile != "data" {
		t.Errorf("asked %d times, record %+v; want 2 and the member's names", asked[testGeneration], r)
	}
	if got := r.Properties.Perimeterd.Interface; got != "if2" {
		t.Errorf("interface without a resolver is %q, want if2", got)
	}
}

func TestBuilderForgetsOldLegends(t *testing.T) {
	b := newBuilder(func(generation uint32) *compile.Legend {
		return &compile.Legend{Generation: generation, Members: []compile.MemberLegend{
			{}, {Resource: fmt.Sprintf("of-%d", generation)},
		}}
	}, nil)
	e := decision(datapath.FlowStart, 1, 0)
	var r Record
	for generation := range uint32(10 * legendsKept) {
		e.Generation = generation
		b.refresh()
		b.fill(&r, &e)
		if want := fmt.Sprintf("/resources/of-%d", generation); r.Properties.ServiceResourceID != want {
			t.Fatalf("generation %d is called %s, want %s", generation, r.Properties.ServiceResourceID, want)
		}
		if len(b.known) > legendsKept {
			t.Fatalf("%d legends are kept, want at most %d", len(b.known), legendsKept)
		}
	}
}
