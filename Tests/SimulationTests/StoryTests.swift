import Simulation
import Testing

/// What may happen to a cluster, told one after another. Clients write, read, watch, lease and rotate keys all along; every promise is checked at
/// every step, and at the end all must be as before.
@Suite("Stories")
struct StoryTests {
    private func expect(_ ending: Story.Ending, _ place: SourceLocation = #_sourceLocation) {
        #expect(ending.violation == nil, sourceLocation: place)
        #expect(ending.unmet == [], sourceLocation: place)
    }

    @Test("partition right after an append: another one leads, and what was acknowledged stays")
    func partitionAfterAppend() throws {
        var story = try Story()
        story.when(.appendSent, .isolate, seconds: 20)
        story.until(.anotherLeads)
        story.until(.writes(20))
        expect(story.ends())
    }

    @Test("a voter crashes right after its vote is durable, and gives it to nobody else")
    func crashAfterVote() throws {
        var story = try Story(Cast(members: 5))
        story.suffers(.leader, Mishap.crash)
        story.when(.voteDurable, .crash, seconds: 1)
        story.until(.led)
        story.until(.writes(20))
        expect(story.ends())
    }

    @Test("the leader crashes at the moment of a commit, again and again")
    func crashAtCommit() throws {
        var story = try Story(Cast(nodes: 1))
        for _ in 0..<5 {
            story.when(.committed, .crash, seconds: 1)
            story.until(.led)
            story.until(.writes(5))
        }
        expect(story.ends())
    }

    @Test("power fails everywhere: all that was acknowledged is there afterwards")
    func allCrash() throws {
        var story = try Story(Cast(members: 5, nodes: 1))
        let written = story.revision
        story.allCrash()
        story.until(.led)
        story.until(.writes(10))
        #expect(story.revision >= written + 10)
        expect(story.ends())
    }

    @Test("a leader stands still for ten seconds and goes on as if nothing had happened: it leads no more, and no lease ended early")
    func longPause() throws {
        var story = try Story()
        let term = story.term
        story.suffers(.leader, Mishap.pause, seconds: 10)
        story.until(.anotherLeads)
        story.passes(seconds: 12)
        #expect(story.term > term)
        expect(story.ends())
    }

    @Test("a leader that hears nobody, and is heard by all, gives way")
    func deafLeader() throws {
        var story = try Story()
        story.suffers(.leader, Mishap.deafen, seconds: 20)
        story.until(.anotherLeads)
        story.until(.writes(20))
        expect(story.ends())
    }

    @Test("a follower that nobody hears disturbs nobody: the same one leads in the same term when it is heard again")
    func muteFollower() throws {
        var story = try Story()
        let term = story.term
        story.suffers(.follower, Mishap.isolate, seconds: 10)
        story.until(.writes(30))
        story.networkHeals()
        story.passes(seconds: 10)
        #expect(story.term == term)
        expect(story.ends())
    }

    @Test("a sync fails on the leader: it stops, acknowledges nothing of it, and comes back")
    func failedSync() throws {
        var story = try Story()
        let term = story.term
        story.suffers(.leader, Mishap.failSync, seconds: 5)
        story.until(.restarted(.same))
        #expect(story.term > term)
        story.until(.writes(20))
        expect(story.ends())
    }

    @Test("a member's disk is put back while a rotation runs: it notices, takes no part, learns again and votes")
    func putBackDuringRotation() throws {
        var story = try Story()
        story.copiesDisk(of: .follower)
        story.until(.writes(40))
        story.rotates()
        story.suffers(.same, StoreMishap.putBackDisk)
        story.until(.noticed(.same))
        story.rotates()
        story.until(.repaired(.same))
        story.until(.voters(3))
        story.until(.writes(10))
        expect(story.ends())
    }

    @Test("the last syncs of a member's log were lies: it notices after the crash")
    func lyingSyncs() throws {
        var story = try Story()
        story.copiesDisk(of: .follower)
        story.until(.writes(20))
        story.suffers(.same, StoreMishap.lieOfSync)
        story.until(.noticed(.same))
        story.until(.repaired(.same))
        story.until(.voters(3))
        expect(story.ends())
    }

    @Test("a damaged log is found at a start while another member joins: both take part in the end")
    func damageWhileJoining() throws {
        var story = try Story(Cast(joiners: 1, windowEntriesMax: 20))
        story.suffers(.follower, StoreMishap.rotLog, seconds: 1)
        story.until(.noticed(.same))
        story.asks(.addLearner)
        story.until(.repaired(.member(1)))
        story.until(.repaired(.member(2)))
        story.until(.repaired(.member(3)))
        story.asks(.promote)
        story.until(.voters(4))
        expect(story.ends())
    }

    @Test("a record of the leader does not open: it hands over, goes on with nothing while at work, and votes again")
    func damagedLeader() throws {
        var story = try Story()
        story.suffers(.leader, StoreMishap.rotRecord)
        story.until(.anotherLeads)
        story.until(.repaired(.same))
        story.until(.voters(3))
        story.until(.writes(10))
        expect(story.ends())
    }

    @Test("a value of the leader rots: it alone is fetched from another member, and nobody stops")
    func damagedValue() throws {
        var story = try Story()
        let term = story.term
        story.suffers(.leader, StoreMishap.rotValue)
        story.until(.valueFetched)
        #expect(story.term == term)
        expect(story.ends())
    }

    @Test("a learner loses what it held: it is a learner again once it has caught up, and may be promoted")
    func damagedLearner() throws {
        var story = try Story(Cast(joiners: 1))
        story.asks(.addLearner)
        story.passes(seconds: 5)
        story.suffers(.learner, StoreMishap.rotRecord)
        story.until(.repaired(.same))
        story.until(.learners(1))
        story.asks(.promote)
        story.until(.voters(4))
        expect(story.ends())
    }

    @Test("a member joins by a snapshot whose sender crashes on the way: another one sends it anew")
    func snapshotSenderCrashes() throws {
        var story = try Story(Cast(joiners: 1, windowEntriesMax: 20))
        story.until(.writes(60))
        story.asks(.addLearner)
        story.when(.snapshotSent, .crash, seconds: 20)
        story.until(.snapshotInstalled(.member(4)))
        story.asks(.promote)
        story.until(.voters(4))
        expect(story.ends())
    }

    @Test("the leader is removed while clients write, and every other member follows it out, but one")
    func membersLeave() throws {
        var story = try Story(Cast(members: 5))
        for left in [4, 3] {
            story.asks(.remove(.leader))
            story.until(.voters(left))
            story.until(.led)
            story.until(.writes(10))
        }
        expect(story.ends())
    }

    @Test("all founders are exchanged for others, one by one, with pods bound and unbound meanwhile")
    func exchange() throws {
        var story = try Story(Cast(joiners: 3, nodes: 2, windowEntriesMax: 20))
        for founder in 1...3 {
            story.asks(.addLearner)
            story.asks(.promote)
            story.until(.voters(4))
            story.asks(.remove(.member(founder)))
            story.until(.voters(3))
            story.until(.writes(10))
        }
        story.until(.volumes(1))
        expect(story.ends())
    }

    @Test("the leader's disk is full: nothing grows, and as soon as there is room everything does")
    func fullDisk() throws {
        var story = try Story()
        story.suffers(.leader, StoreMishap.fillDisk, seconds: 4)
        story.passes(seconds: 20)
        story.until(.writes(20))
        expect(story.ends())
    }

    @Test("an agent dies at every step of its work in turn: no volume is left half made, and nothing readable is left behind")
    func agentDies() throws {
        var story = try Story(Cast(nodes: 1))
        story.until(.volumes(1))
        for _ in 0..<12 {
            story.suffers(.leader, StoreMishap.interruptAgent, seconds: 1)
            story.passes(seconds: 4)
        }
        expect(story.ends())
    }

    @Test("a node is cut off while its pods end, and boots anew: it holds nothing that it should not")
    func nodeCutOff() throws {
        var story = try Story(Cast(nodes: 2))
        story.until(.volumes(2))
        story.suffers(.leader, StoreMishap.cutNode, seconds: 3)
        story.passes(seconds: 6)
        story.suffers(.leader, StoreMishap.bootNode, seconds: 1)
        story.passes(seconds: 6)
        expect(story.ends())
    }
}
