/// What one turn of the replica's thread has to tell, grouped by listener: each is called once, with all of its items in order.
struct Outgoing<Listener, Item> {
    private var groups: [(listener: Listener, items: [Item])] = []
    private var positions: [ObjectIdentifier: Int] = [:]
    private var last: (identity: ObjectIdentifier, position: Int)?

    mutating func append(_ item: Item, to listener: Listener, identity: ObjectIdentifier) {
        if let last, last.identity == identity { return groups[last.position].items.append(item) }
        let position: Int
        if let known = positions[identity] {
            position = known
            groups[position].items.append(item)
        } else {
            position = groups.count
            positions[identity] = position
            groups.append((listener, [item]))
        }
        last = (identity, position)
    }

    var isEmpty: Bool { groups.isEmpty }

    /// All of it; nothing is left.
    mutating func take() -> [(listener: Listener, items: [Item])] {
        let taken = groups
        groups = []
        positions.removeAll(keepingCapacity: true)
        last = nil
        return taken
    }
}
