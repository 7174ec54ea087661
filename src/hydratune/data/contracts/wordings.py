"""What the built-in contracts are written with: two disjoint worlds of names and sentences.

``TRAIN`` words make the training and validation rows, ``TEST`` words the test rows. No company, place, role,
sentence or clause order of the test world occurs in the training world, so a model cannot score by memory.
Date and number *forms* are shared on purpose: turning "15 March 2021" into "2021-03-15" is the skill to learn.

Fields in a sentence: ``{a} {b}`` the parties' roles, ``{A} {B}`` their names, ``{date}``, ``{period}`` (a duration in
months or years), ``{days}`` (a duration in days), ``{place}``, ``{money}``; ``{n}`` a number that means nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Everything one world is written with; see the module docstring for the fields."""

    stems: tuple[str, ...]
    trades: tuple[str, ...]
    suffixes: tuple[str, ...]
    places: tuple[str, ...]
    roles: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]
    clauses: dict[str, tuple[str, ...]]
    renewals: dict[str, tuple[str, ...]]
    amendments: dict[str, tuple[str, ...]]
    distractors: tuple[str, ...]


TRAIN = World(
    stems=(
        "Acorn", "Alder", "Amberline", "Apex", "Ashford", "Atlas", "Aurora", "Baxter", "Beacon", "Birchwood", "Blue Harbor",
        "Boreal", "Bramble", "Bridgeport", "Calder", "Cardinal", "Cascade", "Cedar Point", "Chandler", "Clearwater", "Cobalt",
        "Copperfield", "Corbin", "Crestview", "Dalton", "Delmar", "Drummond", "Eastgate", "Ellison", "Everest", "Fairmont",
        "Falcon", "Fenwick", "Firelight", "Foxglove", "Garrison", "Glenmore", "Granite", "Greenfield", "Halcyon", "Hartwell",
        "Hawthorne", "Helios", "Highland", "Holloway", "Ironwood", "Juniper", "Keystone", "Kingsley", "Lakeshore", "Langford",
        "Larkspur", "Lexington", "Linden", "Longview", "Magnolia", "Maple Ridge", "Marlowe", "Meridian", "Milestone", "Monarch",
        "Norwood", "Oakhurst", "Orion", "Pacific Crest", "Paragon", "Pemberton", "Pinnacle", "Prescott", "Quantum", "Radcliffe",
        "Redstone", "Ridgeline", "Rosewood", "Sable", "Sandhill", "Sequoia", "Sherwood", "Silverton", "Sterling", "Stonebridge",
        "Summit", "Sycamore", "Tamarack", "Thornton", "Titan", "Trident", "Upland", "Vanguard", "Vantage", "Wakefield",
        "Waverly", "Westbrook", "Whitmore", "Wilder", "Windham", "Winslow", "Woodlawn", "Wyndham", "Yellowstone", "Zephyr",
    ),
    trades=(
        "Analytics", "Brands", "Capital", "Chemicals", "Consulting", "Data Systems", "Devices", "Energy", "Foods", "Freight",
        "Health", "Holdings", "Industries", "Insurance Services", "Logistics", "Manufacturing", "Media", "Medical", "Motors",
        "Networks", "Packaging", "Pharma", "Plastics", "Properties", "Robotics", "Security", "Software", "Studios", "Supply",
        "Technologies", "Textiles", "Travel", "Ventures", "Water",
    ),
    suffixes=("Inc.", "LLC", "Ltd", "Corporation", "GmbH", "Limited", "Co.", "L.P.", "S.A."),
    places=(
        "New York", "Delaware", "California", "Texas", "Illinois", "Florida", "Massachusetts", "Nevada", "Ohio", "Georgia",
        "Washington", "Colorado", "Virginia", "Michigan", "New Jersey", "Pennsylvania", "England and Wales", "Scotland",
        "Germany", "France", "Ireland", "Singapore", "Ontario", "Japan", "Switzerland", "the Netherlands", "New South Wales",
        "Hong Kong", "Sweden", "Utah", "Arizona", "Maryland", "Minnesota", "Wisconsin", "Tennessee", "Oregon", "Connecticut",
    ),
    roles=(
        ("the Supplier", "the Customer"), ("the Licensor", "the Licensee"), ("the Provider", "the Client"),
        ("the Company", "the Distributor"), ("the Vendor", "the Buyer"), ("the Consultant", "the Company"),
        ("the Manufacturer", "the Reseller"), ("the Owner", "the Contractor"),
    ),
    kinds=(
        "Supply Agreement", "License Agreement", "Services Agreement", "Distribution Agreement", "Consulting Agreement",
        "Reseller Agreement", "Maintenance Agreement", "Master Services Agreement", "Hosting Agreement",
    ),
    clauses={
        "parties": (
            "This {kind} is made between {A} (\"{a}\") and {B} (\"{b}\").",
            "This {kind} is entered into by and between {A}, hereinafter {a}, and {B}, hereinafter {b}.",
            "THIS {KIND} is by and among {A} and {B}.",
            "{kind} between {A} ({a}) and {B} ({b}).",
            "{A} and {B} (together the \"Parties\") agree to this {kind}.",
            "{A} (\"{a}\") and {B} (\"{b}\") have signed this {kind}.",
            "Between {A}, referred to as {a}, and {B}, referred to as {b}, the following {kind} is agreed.",
            "This {kind} sets out the terms on which {A} deals with {B}.",
            "The signatories of this {kind} are {A} as {a} and {B} as {b}.",
            "Parties to this {kind}: {A}; {B}.",
        ),
        "parties_dated": (
            "This {kind} is made on {date} between {A} (\"{a}\") and {B} (\"{b}\").",
            "This {kind}, dated as of {date}, is entered into by and between {A} and {B}.",
            "THIS {KIND} dated {date} is by and among {A} and {B}.",
            "{kind} of {date} between {A} ({a}) and {B} ({b}).",
            "On {date}, {A} and {B} (together the \"Parties\") agreed to this {kind}.",
            "{A} (\"{a}\") and {B} (\"{b}\") have signed this {kind} on {date}.",
            "Between {A}, referred to as {a}, and {B}, referred to as {b}, the following {kind} is agreed on {date}.",
            "Dated {date}. Parties to this {kind}: {A}; {B}.",
            "Signed on {date}, this {kind} sets out the terms on which {A} deals with {B}.",
            "The signatories of this {kind} of {date} are {A} as {a} and {B} as {b}.",
        ),
        "effective": (
            "This Agreement becomes effective on {date}.",
            "This Agreement shall take effect as of {date} (the \"Effective Date\").",
            "The Effective Date of this Agreement is {date}.",
            "The rights and duties of the Parties begin on {date}.",
            "This Agreement enters into force on {date}.",
            "Operations under this Agreement start on {date}.",
            "From {date} on, both Parties are bound by this Agreement.",
            "The start date is {date}.",
            "The services shall begin on {date}.",
            "This contract applies as from {date}.",
            "Validity begins {date}.",
        ),
        "effective_same": (
            "This Agreement is effective as of the date first written above.",
            "This Agreement takes effect on the date on which it is made.",
            "The Effective Date is the date stated at the head of this Agreement.",
            "This Agreement is in force from the day of its signature.",
            "The start date equals the date of this Agreement.",
            "Its effect begins on the very day it is signed.",
            "Both Parties are bound as of the signature date.",
        ),
        "term": (
            "The initial term of this Agreement is {period}.",
            "This Agreement shall continue for a period of {period} unless terminated earlier.",
            "The term of this Agreement shall be {period} from the Effective Date.",
            "This Agreement remains in force for {period}.",
            "{a} shall provide the services for {period}.",
            "Unless ended sooner, this Agreement runs for {period}.",
            "The agreed length of this contract is {period}.",
            "The cooperation is limited to {period}.",
            "{a} is appointed for {period}.",
            "This contract is made for {period}.",
            "Its duration amounts to {period}.",
            "The Parties bind themselves for {period}.",
            "It expires after {period}.",
        ),
        "notice": (
            "Either Party may terminate this Agreement by giving {days} written notice.",
            "{b} may cancel this Agreement on not less than {days} prior notice to {a}.",
            "This Agreement may be terminated for convenience upon {days} notice.",
            "Termination requires written notice of at least {days}.",
            "Each Party has the right to end this Agreement with {days} notice in writing.",
            "A Party that wants to leave this Agreement shall tell the other {days} before.",
            "The notice period is {days}.",
            "{b} may withdraw from this contract if it informs {a} {days} ahead.",
            "Cancellation takes effect {days} after it was announced in writing.",
            "Anyone may exit this Agreement, {days} after a written warning.",
            "{a} can be released from this contract by declaring so {days} earlier.",
            "To end the cooperation, {days} of warning are required.",
        ),
        "law": (
            "This Agreement is governed by the laws of {place}.",
            "This Agreement shall be construed in accordance with the laws of {place}, without regard to conflict of laws.",
            "The law of {place} applies to this Agreement.",
            "Governing law: {place}.",
            "The validity and interpretation of this Agreement are subject to the laws of {place}.",
            "{place} law governs all questions arising from this contract.",
            "The Parties have selected the laws of {place}.",
            "Disputes shall be resolved according to the law of {place}.",
            "The legal system of {place} is applicable.",
            "For this contract the statutes of {place} are decisive.",
            "All matters hereunder are judged by the laws of {place}.",
        ),
        "cap": (
            "The total liability of {a} under this Agreement shall not exceed {money}.",
            "In no event shall either Party's aggregate liability exceed {money}.",
            "Liability under this Agreement is limited to {money}.",
            "{a} is liable up to a maximum amount of {money}.",
            "The cap on all claims arising from this Agreement is {money}.",
            "{b} cannot recover more than {money} in damages.",
            "The responsibility of either Party for losses is restricted to {money}.",
            "Compensation is payable only up to {money}.",
            "The maximum that {a} owes for all losses is {money}.",
            "No claim for damages may go beyond {money}.",
            "The ceiling of liability is set at {money}.",
        ),
        "payment": (
            "{b} shall pay each invoice within {days} of receipt.",
            "Invoices are due {days} after the invoice date.",
            "Payment terms are net {days}.",
            "All undisputed amounts are payable within {days} from the date of the invoice.",
            "{b} agrees to settle invoices no later than {days} after delivery.",
            "The fees become payable {days} after {b} has received the invoice.",
            "{b} has {days} to pay a bill.",
            "Each bill must be settled in {days}.",
            "{a} allows {b} {days} for payment.",
            "The purchase price must reach {a} no later than {days} after billing.",
            "The time for payment is {days}.",
        ),
    },
    renewals={
        "automatic": (
            "It renews automatically for successive periods of {period} unless either Party objects.",
            "Upon expiry, this Agreement shall automatically be extended by further terms of {period}.",
            "The term is automatically renewed year after year.",
            "Without a declaration to the contrary, this contract goes on for {period}.",
            "It continues by itself for {period} at a time.",
            "If nobody objects, a new period of {period} begins on its own.",
            "This Agreement rolls over for {period} each time it ends.",
        ),
        "by_agreement": (
            "It may be renewed for a further {period} by mutual written agreement.",
            "Any extension requires the written consent of both Parties.",
            "The Parties may agree in writing to renew this Agreement for {period}.",
            "The term can be extended by {period} if both Parties consent.",
            "Renewal takes place only where the two Parties so decide together.",
            "An extension needs the signatures of both sides.",
            "Jointly, the Parties may resolve to continue for {period}.",
        ),
        "none": (
            "This Agreement shall not renew and ends at the close of its term.",
            "There is no right of renewal.",
            "Upon expiry this Agreement terminates without any renewal.",
            "An extension is not possible.",
            "Renewal is ruled out.",
            "After its term this contract simply ends and does not continue.",
            "The contract shall not be extended.",
        ),
    },
    amendments={
        "term": (
            "By Amendment No. {n}, the term stated above was replaced by {period}.",
            "Amendment: the Parties have changed the initial term to {period}.",
            "As amended, the term of this Agreement is now {period}.",
            "Later the Parties altered the duration; it is now {period}.",
            "A supplement replaces the agreed length by {period}.",
        ),
        "notice": (
            "By Amendment No. {n}, the notice period was changed to {days}.",
            "Amendment: notice of termination is now {days}.",
            "Later the Parties altered the notice period; it is now {days}.",
            "A supplement replaces the notice period by {days}.",
            "As amended, termination now requires {days}.",
        ),
        "payment": (
            "By Amendment No. {n}, the time for payment was changed to {days}.",
            "Amendment: invoices are now payable within {days}.",
            "Later the Parties altered the time for payment; it is now {days}.",
            "A supplement replaces the payment term by {days}.",
            "As amended, bills are now due within {days}.",
        ),
        "cap": (
            "By Amendment No. {n}, the limit of liability was raised to {money}.",
            "Amendment: the liability cap is now {money}.",
            "Later the Parties altered the maximum liability; it is now {money}.",
            "A supplement replaces the cap by {money}.",
            "As amended, damages are now limited to {money}.",
        ),
        "law": (
            "By Amendment No. {n}, the governing law was changed to that of {place}.",
            "Amendment: this Agreement is now governed by the laws of {place}.",
            "Later the Parties altered the applicable law; it is now that of {place}.",
            "A supplement replaces the governing law by that of {place}.",
        ),
        "effective": (
            "By Amendment No. {n}, the Effective Date was moved to {date}.",
            "Amendment: the Effective Date is now {date}.",
            "Later the Parties altered the start date; it is now {date}.",
            "A supplement replaces the Effective Date by {date}.",
        ),
    },
    distractors=(
        "Confidential information must be protected for {period} after disclosure.",
        "{a} shall maintain general liability insurance of at least {money}.",
        "{b} may audit the records of {a} upon {days} notice.",
        "Neither Party is liable for delays caused by events beyond its reasonable control.",
        "{a} shall correct defects within {days} after being informed of them.",
        "Neither Party may assign this Agreement without prior written consent.",
        "This Agreement supersedes the letter of intent dated {date}.",
        "A training budget of {money} is included in the fees.",
        "Headings are for convenience only and do not affect interpretation.",
        "Reports are delivered to {b} every {days}.",
        "A security payment of {money} was made before signature.",
        "{a} keeps spare parts for {period}.",
        "Defects must be reported to {a} within {days} of delivery.",
        "The letter of {date} has lost its effect.",
        "{b} appoints a project manager.",
        "If a clause is invalid, the remaining clauses stay valid.",
        "Backups are kept for {days}.",
        "The insurance of {a} covers damage up to {money}.",
        "Secrets of the other Party shall be kept for {period} after the end of this contract.",
    ),
)

TEST = World(
    stems=(
        "Albion", "Arbor Vale", "Argent", "Bellweather", "Bluestem", "Brightwater", "Canterbury", "Caspian", "Dunmore", "Emberly",
        "Fieldstone", "Galloway", "Harborview", "Indigo", "Jasper", "Kestrel", "Lakewood", "Lorimer", "Mayfield", "Nightingale",
        "Northwind", "Old Mill", "Osprey", "Pembroke", "Quarry Hill", "Ravenna", "Saffron", "Tidewater", "Umbra", "Verdant",
        "Wexford", "Yarrow",
    ),
    trades=(
        "Aerospace", "Agritech", "Apparel", "Biosciences", "Ceramics", "Diagnostics", "Electric", "Furniture", "Gaming",
        "Instruments", "Optics", "Paper", "Publishing", "Renewables", "Shipping", "Telecom", "Timber", "Trading",
    ),
    suffixes=("PLC", "N.V.", "Pty Ltd", "Incorporated", "Company", "AG", "LLP"),
    places=(
        "North Carolina", "Indiana", "Missouri", "Louisiana", "Kentucky", "Iowa", "Belgium", "Austria", "Denmark", "Norway",
        "Spain", "Italy", "British Columbia", "Queensland", "New Zealand", "Portugal",
    ),
    roles=(
        ("the Seller", "the Purchaser"), ("the Franchisor", "the Franchisee"), ("the Agency", "the Advertiser"),
        ("the Carrier", "the Shipper"), ("the Developer", "the Publisher"),
    ),
    kinds=("Franchise Agreement", "Outsourcing Agreement", "Purchase Agreement", "Transport Agreement", "Development Agreement"),
    clauses={
        "parties": (
            "The undersigned, {A}, acting as {a}, and {B}, acting as {b}, conclude the following {kind}.",
            "{kind} concluded by {A} on the one hand and {B} on the other.",
            "The contracting parties to this {kind} are {A} and {B}.",
        ),
        "parties_dated": (
            "The undersigned, {A}, acting as {a}, and {B}, acting as {b}, conclude this {kind} on {date}.",
            "{kind} signed {date} by {A} on the one hand and {B} on the other.",
            "Executed on {date}: {kind}. The contracting parties are {A} and {B}.",
        ),
        "effective": (
            "The provisions of this contract are binding from {date} onward.",
            "Performance under this contract commences on {date}.",
            "The commencement date is {date}.",
        ),
        "effective_same": (
            "The provisions of this contract are binding from its signing date.",
            "The commencement date is the same day as the signing of this contract.",
        ),
        "term": (
            "The contract has a fixed duration of {period}.",
            "The engagement of {a} lasts {period}.",
            "The contract is concluded for {period}.",
            "The duration agreed between the parties is {period}.",
        ),
        "notice": (
            "The contract can be ended by any party observing a notice period of {days}.",
            "Whoever wishes to terminate must announce it {days} in advance.",
            "{b} is free to withdraw, provided that {a} is notified {days} beforehand.",
        ),
        "law": (
            "Any dispute is decided under the law in force in {place}.",
            "The parties choose the law of {place} as the law of the contract.",
            "This contract and all matters connected with it follow the legislation of {place}.",
        ),
        "cap": (
            "Damages payable by {a} may in total never be more than {money}.",
            "Claims for compensation are capped at {money}.",
            "The financial responsibility of each party ends at {money}.",
        ),
        "payment": (
            "Bills are to be paid by {b} within {days}.",
            "{a} grants {b} a payment period of {days} for every bill.",
            "The price falls due {days} following the billing date.",
        ),
    },
    renewals={
        "automatic": (
            "Absent an objection, the contract prolongs itself for another {period}.",
            "It is tacitly prolonged each time by {period}, with no action needed.",
        ),
        "by_agreement": (
            "A prolongation is possible only if both sides sign for it.",
            "The parties can jointly decide on a prolongation of {period}.",
        ),
        "none": (
            "A prolongation is excluded.",
            "When the duration is over the contract is finished and is not prolonged.",
        ),
    },
    amendments={
        "term": (
            "In a later addendum the parties fixed the duration at {period} instead.",
            "Addendum {n} sets a new duration of {period}.",
        ),
        "notice": (
            "In a later addendum the notice period was fixed at {days} instead.",
            "Addendum {n} sets a new notice period of {days}.",
        ),
        "payment": (
            "In a later addendum the payment period was fixed at {days} instead.",
            "Addendum {n} sets a new payment period of {days}.",
        ),
        "cap": (
            "In a later addendum compensation was capped at {money} instead.",
            "Addendum {n} sets a new ceiling for damages of {money}.",
        ),
        "law": (
            "In a later addendum the law of {place} was chosen instead.",
            "Addendum {n} places the contract under the law of {place}.",
        ),
        "effective": (
            "In a later addendum the start was moved to {date}.",
            "Addendum {n} sets a new commencement date of {date}.",
        ),
    },
    distractors=(
        "Trade secrets are to be guarded for {period} once the cooperation is over.",
        "{a} holds an insurance policy covering {money}.",
        "Complaints about hidden faults must reach {a} within {days}.",
        "An earlier memorandum of {date} is no longer valid.",
        "Should one provision be void, the others stay in place.",
        "A deposit of {money} has already been received.",
        "{b} names a contact person for daily questions.",
        "Samples are stored for {days}.",
    ),
)
